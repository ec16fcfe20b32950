"""A reward model as a scorer: it reads what training read, whatever lies beside a row; steps; what is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from bench import save_tiny_model
from reward_runs import hidden, policy, row, said, write_run
from torch.nn.functional import logsigmoid

from luthier.data import Template
from luthier.errors import LuthierError
from luthier.forward.values import Reader
from luthier.models.heads import HeadCard
from luthier.scorers import SCORERS
from luthier.scorers.reward_model import RewardModel, _opened, aggregate
from luthier.types import RAW, Example, Response, Turn


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


PAIRS = [
    (row("tea?"), said("yes")),
    (row("a very much longer question, with words " * 3), said("no")),
    (row("tea?"), said("a long answer " * 8)),
    (row("x"), said("y")),
    (Example((Turn("user", "hi"), Turn("assistant", "hello"), Turn("user", "bye"))), said("so long")),
]


@pytest.mark.parametrize("adapt", ["lora", "full", "prompt", "prefix"])
def test_the_reward_is_read_at_the_last_token_whatever_lies_beside_the_row(model: Path, tmp_path: Path, adapt: str):
    made = policy(model, adapt=adapt)
    expected = []
    for example, response in PAIRS:
        states, ids = hidden(made, example, response)
        assert made.tokenizer.convert_ids_to_tokens(int(ids[-1])) == "<|im_end|>"
        assert made.head is not None
        expected.append(float(states[-1].float() @ made.head.weight[0].detach()))
    assert len({round(value, 4) for value in expected}) == len(expected)
    run = write_run(tmp_path / "rm", made, model)
    for batch in (1, 2, 64):
        scorer = SCORERS.build("reward_model", {"": str(run.folder), "batch": batch})
        assert scorer.many(PAIRS) == pytest.approx(expected, abs=1e-5)
    assert [scorer(*pair) for pair in PAIRS] == pytest.approx(expected, abs=1e-5)


def test_an_answer_to_plain_text_is_read_as_plain_text(model: Path, tmp_path: Path):
    made = policy(model)
    prompt = Example((Turn(RAW, "once upon"),))
    states, ids = hidden(made, prompt, Response((Turn(RAW, " a time"),)))
    assert made.head is not None and "once upon a time" in made.tokenizer.decode(ids)
    assert "<|im_start|>" not in made.tokenizer.decode(ids)
    scorer = RewardModel(str(write_run(tmp_path / "rm", made, model).folder))
    expected = float(states[-1].float() @ made.head.weight[0].detach())
    assert scorer(prompt, said(" a time")) == pytest.approx(expected, abs=1e-5), "as `luthier evaluate` hands it over"


def test_an_untrained_head_rewards_nothing(model: Path, tmp_path: Path):
    made = policy(model)
    assert made.head is not None
    with torch.no_grad():
        made.head.weight.zero_()
    scorer = RewardModel(str(write_run(tmp_path / "rm", made, model).folder))
    assert scorer.many(PAIRS) == [0.0] * len(PAIRS)


def test_a_planted_reward_is_recovered_by_a_bradley_terry_head(model: Path, tmp_path: Path):
    """r* = w* . h, pairs ordered by r*; the head alone learns from them, from zero, and ranks new pairs as r* does."""
    made = policy(model)
    assert made.head is not None
    torch.manual_seed(0)
    answers = [
        row("say it"),
        *[said("".join(map(chr, np.random.default_rng(n).integers(97, 123, 12)))) for n in range(160)],
    ]
    prompt, responses = answers[0], answers[1:]
    features_ND = torch.stack([hidden(made, prompt, response)[0][-1] for response in responses])
    planted_D = torch.randn(features_ND.shape[1])
    planted_N = features_ND @ planted_D
    half = len(responses) // 2
    better, worse = np.divmod(np.arange(half * half), half)
    kept = (planted_N[better] > planted_N[worse]).numpy()
    apart_PD = features_ND[better[kept]] - features_ND[worse[kept]]
    weight = torch.zeros(features_ND.shape[1], requires_grad=True)
    first = -logsigmoid(apart_PD @ weight).mean()
    assert float(first) == pytest.approx(math.log(2))
    optimiser = torch.optim.LBFGS([weight], max_iter=100)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = -logsigmoid(apart_PD @ weight).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        made.head.weight[0] = weight
    scorer = RewardModel(str(write_run(tmp_path / "rm", made, model).folder))
    scores = np.array(scorer.many([(prompt, response) for response in responses[half:]]))
    truth = planted_N[half:].numpy()
    right = [(scores[i] > scores[j]) == (truth[i] > truth[j]) for i in range(half) for j in range(i)]
    assert np.mean(right) > 0.97


def steps_of(made, example: Example, text: str, steps: tuple[str, ...]) -> np.ndarray:
    states, ids = hidden(made, example, said(text))
    spoken = [made.tokenizer.decode(ids[: place + 1]) for place in range(len(ids))]
    begin, places = spoken[-1].rindex(text), []
    for step in steps:
        begin = spoken[-1].index(step, begin) + len(step)
        places.append(next(place for place, words in enumerate(spoken) if len(words) >= begin))
    return (states[places].float() @ made.head.weight[0].detach()).numpy()


def test_a_process_reward_model_reads_each_step_and_aggregates(model: Path, tmp_path: Path):
    made = policy(model, HeadCard("step", "process_reward", "\n\n"))
    run = write_run(tmp_path / "prm", made, model, "process_reward")
    example, steps = row("2+2+2?"), ("2+2 is 4.", "4+2 is 6.", "so 6")
    text = "\n\n".join(steps)
    p_K = 1 / (1 + np.exp(-steps_of(made, example, text, steps).astype(np.float64)))
    assert len(set(np.round(p_K, 4))) == 3
    expected = {"product": p_K.prod(), "min": p_K.min(), "last": p_K[-1], "mean": p_K.mean()}
    for how, value in expected.items():
        scorer = RewardModel(str(run.folder), aggregation=how)
        assert scorer(example, said(text)) == pytest.approx(value, abs=1e-5)
    assert RewardModel(str(run.folder))(example, said(text)) == pytest.approx(expected["product"], abs=1e-5)
    assert RewardModel(str(run.folder))(example, said("\n\n \n\n")) is None, "no step, no judgement"
    encoded = Template(made.tokenizer).encode(Example(example.prompt, (Response(said("x").turns, reward=0.0),)))
    with pytest.raises(LuthierError, match="this response has no steps"):
        Reader(made.module, made.head)([encoded])


def test_steps_that_no_newline_divides_cannot_be_found_in_an_answer(model: Path, tmp_path: Path):
    run = write_run(tmp_path / "prm", policy(model, HeadCard("step", "process_reward", " ")), model, "process_reward")
    with pytest.raises(LuthierError, match="learnt from steps that ' ' divides"):
        RewardModel(str(run.folder)).check()


def test_aggregation_by_hand():
    logit_K = np.log(np.array([0.9, 0.5, 0.8]) / (1 - np.array([0.9, 0.5, 0.8]))).astype(np.float32)
    assert aggregate(logit_K, "product") == pytest.approx(0.36)
    assert aggregate(logit_K, "min") == pytest.approx(0.5)
    assert aggregate(logit_K, "last") == pytest.approx(0.8)
    assert aggregate(logit_K, "mean") == pytest.approx(2.2 / 3)
    certain = np.array([1000.0, -1000.0], np.float32)
    assert aggregate(certain, "product") == 0.0 and aggregate(certain[:1], "product") == 1.0


def test_what_cannot_be_judged_is_none_and_the_rest_is(model: Path, tmp_path: Path):
    scorer = RewardModel(str(write_run(tmp_path / "rm", policy(model), model).folder))
    found = scorer.many([PAIRS[0], (row("tea?"), said(" ")), (row("tea?"), Response(())), PAIRS[2]])
    assert found[1] is None and found[2] is None
    assert found[0] == scorer(*PAIRS[0]) and found[3] == pytest.approx(scorer(*PAIRS[2]), abs=1e-5)


def test_two_that_are_asked_in_turn_stay_loaded(model: Path, tmp_path: Path):
    for name in ("one", "other"):
        write_run(tmp_path / name, policy(model), model)
    _opened.cache_clear()
    for _ in range(3):  # as a reward that is the sum of both is asked, rollout after rollout
        scores = [RewardModel(str(tmp_path / name))(*PAIRS[0]) for name in ("one", "other")]
        assert None not in scores
    assert _opened.cache_info().misses == 2


def test_runs_without_a_head_and_keys_of_another_kind_are_refused_and_long_rows_have_no_score(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    plain = policy(model)
    plain.heads = {}
    write_run(tmp_path / "sft", plain, model, "sft")
    write_run(tmp_path / "begun", None, model)
    write_run(tmp_path / "rm", policy(model), model)
    cases = {
        "sft": "was trained with objective sft and has no scalar head",
        "begun": "holds no trained model yet",
        "nothing": "not a run folder",
    }
    for name, message in cases.items():
        with pytest.raises(LuthierError, match=message) as error:
            RewardModel(str(tmp_path / name))(*PAIRS[0])
        assert error.value.fix
    with pytest.raises(LuthierError, match="`aggregation` is for process reward models"):
        RewardModel(str(tmp_path / "rm"), aggregation="min").check()
    long = [(row("tea?"), said("a" * count)) for count in (300, 310)]
    assert [score is None for score in RewardModel(str(tmp_path / "rm")).many([*long, PAIRS[0]])] == [True, True, False]
    assert re.findall(r"have (3\d\d) tokens, the reward model's context is 256", caplog.text), "the first is told"
    assert caplog.text.count("stays without a score") == 1
    head = tmp_path / "rm" / "adapter" / "head.safetensors"
    head.write_bytes(head.read_bytes()[:40])
    with pytest.raises(LuthierError, match="head cannot be read"):
        RewardModel(str(tmp_path / "rm"))(*PAIRS[0])
