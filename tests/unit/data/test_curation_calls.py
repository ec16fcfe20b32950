"""What models are asked is written down, and asked once: after a kill, for other rows, by another recipe."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from luthier.data.curation.calls import Calls, Spent
from luthier.data.steps import STEPS
from luthier.data.steps.tools import Budget, Tools
from luthier.errors import LuthierError
from luthier.types import Completion, Request, Sampling, Turn


@dataclass
class Speaking:
    """Answers with the prompt's tokens in words, and remembers what it was asked."""

    identity: str = "a model"
    asked: list[Request] = field(default_factory=list)
    stop_after: int = 10**9

    @property
    def engine(self) -> Any:
        return self

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        for request in reversed(requests):  # they end in any order
            for index in range(request.n):
                if len(self.asked) >= self.stop_after:
                    raise KeyboardInterrupt
                self.asked.append(request)
                yield Completion(
                    (1, 2), f"{list(request.prompt)} {index}", "stop", (1, 2), request=request.id, index=index
                )


def requests(*prompts: int, n: int = 1) -> list[Request]:
    return [Request((prompt,), n=n, id=f"r{prompt}", turns=(Turn("user", str(prompt)),)) for prompt in prompts]


def said(answers: list[tuple[Completion, ...]]) -> list[list[str]]:
    return [[one.text for one in each] for each in answers]


def test_an_answer_is_asked_for_once(tmp_path: Path):
    calls, model = Calls(tmp_path), Speaking()
    first = calls(model, requests(1, 2, 3))
    assert said(first) == [["[1] 0"], ["[2] 0"], ["[3] 0"]] and len(model.asked) == 3
    assert [each[0].request for each in first] == ["r1", "r2", "r3"] and first[0][0].length == 2
    again = Calls(tmp_path)(model, requests(2, 4, 2), "judge")
    assert said(again) == [["[2] 0"], ["[4] 0"], ["[2] 0"]] and len(model.asked) == 4
    assert first[1] == calls(model, requests(2))[0] and len(model.asked) == 4, "and another process's is found"


def test_other_models_samplings_and_numbers_are_other_questions(tmp_path: Path):
    calls, model = Calls(tmp_path), Speaking()
    calls(model, requests(1))
    calls(Speaking("another"), requests(1))
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    assert said(calls(model, requests(1, n=3))) == [["[1] 0", "[1] 1", "[1] 2"]]
    assert len(model.asked) == 4, "the one that was there is asked again, with the two that were not"
    assert said(calls(model, requests(1, n=2))) == [["[1] 0", "[1] 1"]] and len(model.asked) == 4


def test_what_was_answered_before_it_was_stopped_is_kept(tmp_path: Path):
    model = Speaking(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        Calls(tmp_path)(model, requests(1, 2, 3, 4))
    model.stop_after = 10**9
    assert len(Calls(tmp_path)(model, requests(1, 2, 3, 4))) == 4
    assert [one.prompt for one in model.asked] == [(4,), (3,), (2,), (1,)]


def test_a_line_that_was_cut_off_is_asked_again_and_a_damaged_one_told(tmp_path: Path):
    model = Speaking()
    Calls(tmp_path)(model, requests(1, 2))
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-9])
    assert len(Calls(tmp_path)(model, requests(1, 2))) == 2 and len(model.asked) == 3
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(LuthierError, match=r"\.jsonl:1: this line of the journal of calls is damaged"):
        Calls(tmp_path)(model, requests(1))


def test_a_budget_ends_at_the_same_row_whenever_it_is_begun(tmp_path: Path):
    model, budget = Speaking(), Budget(calls=3)
    for _ in range(2):
        tools = Tools(asking=Calls(tmp_path))
        tools.ask(model, requests(1, 2), "judge", budget)
        tools.ask(model, requests(2, 3), "judge", budget)
        with pytest.raises(LuthierError, match=r"judge: its budget of 3 calls is used up: these rows would take 4"):
            tools.ask(model, requests(4), "judge", budget)
        assert len(model.asked) == 3
        tools.ask(model, requests(3), "another step", Budget(calls=1))
    with pytest.raises(LuthierError, match="its budget of 5 generated tokens is used up"):
        tools.ask(model, requests(1, 2, 3), "third", Budget(tokens=5))


def test_money_is_counted_by_the_price_and_never_more_is_asked_than_it_may_come_to(tmp_path: Path):
    price = {"in": 1_000_000.0, "out": 10_000_000.0}  # one for each token read, ten for each written: an answer has two
    some = [replace(one, sampling=Sampling(4)) for one in requests(1, 2, 3)]  # four at most
    for _ in range(2):
        model, tools = Speaking(), Tools(asking=Calls(tmp_path))
        tools.ask(model, some[:1], "judge", Budget(money=41, price=price))
        tools.ask(model, some[:2], "judge", Budget(money=62, price=price))  # 21 are spent, 41 more may be
        with pytest.raises(LuthierError, match=r"its budget of 82 in money is used up: 43 with these rows, at most 83"):
            tools.ask(model, some[2:], "judge", Budget(money=82, price=price))
        assert tools.asking.spent["judge"] == Spent(2, 2, 4)  # type: ignore[union-attr]
    assert len(list(tmp_path.glob("*.jsonl"))) == 1


def test_tokens_that_an_endpoint_has_counted_are_its_own(tmp_path: Path):
    @dataclass
    class Counting(Speaking):
        def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
            return (replace(one, read=100) for one in super().run(requests))

    for _ in range(2):
        calls = Calls(tmp_path)
        calls(Counting(), requests(1, 2), "judge")
        assert calls.spent["judge"] == Spent(2, 200, 4)
    calls(Speaking("messages alone"), [Request((), turns=(Turn("user", "x" * 20),))], "other")
    assert calls.spent["other"].read == 18, "guessed, rather too high"


def test_money_needs_a_price_and_takes_that_of_the_endpoint():
    engine = {"openai": {"url": "http://127.0.0.1:1/v1", "model": "m", "price_in": 0.5, "price_out": 2}}
    assert Budget(money=3).priced(engine).price == {"in": 0.5, "out": 2}
    assert Budget(money=3, price={"in": 1, "out": 1}).priced(engine).cost(1_000_000, 500_000) == 1.5
    assert Budget(calls=3).priced("local") == Budget(calls=3)
    with pytest.raises(LuthierError, match="nothing says what tokens cost"):
        Budget(money=3).priced("local")
    with pytest.raises(LuthierError, match="a price has two parts"):
        STEPS.build("evolve", {"budget": {"money": 3, "price": {"in": 1}}})


def test_a_step_without_its_tool_says_so():
    with pytest.raises(LuthierError, match="needs a model to ask"):
        Tools().ask(Speaking(), requests(1), "judge")
    with pytest.raises(LuthierError, match="no rows called 'evaluate'"):
        Tools().rows("evaluate")


KILLED = """
import sys, time
from test_curation_calls import Speaking, requests
from luthier.data.curation.calls import Calls
class Slow(Speaking):
    def run(self, requests):
        for one in super().run(requests):
            yield one
            print(one.request, flush=True)
            time.sleep(float(sys.argv[2]))
Calls(sys.argv[1])(Slow(), requests(*range(30)))
print("done", flush=True)
"""


def test_killed_nothing_that_was_answered_is_asked_again(tmp_path: Path):
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    program = KILLED.replace("Calls(sys.argv[1])", "Calls(__import__('pathlib').Path(sys.argv[1]))")
    command = [sys.executable, "-c", program, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": paths}
    process = subprocess.Popen([*command, "0.05"], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    answered = [process.stdout.readline().strip() for _ in range(10)]
    process.send_signal(signal.SIGKILL)
    answered += process.stdout.read().split()
    process.wait()
    assert "done" not in answered
    rest = subprocess.run([*command, "0"], capture_output=True, text=True, env=environment, check=True).stdout.split()
    assert rest[-1] == "done" and not set(answered) & set(rest)
    assert len(answered) + len(rest) - 1 >= 29, "only the call in flight may have been answered and not told"
