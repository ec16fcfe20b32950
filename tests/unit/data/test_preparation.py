"""From a recipe to tokens: counted, fitted, mixed, held out, cached; nothing lost without a word."""

from __future__ import annotations

import io
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chat_templates as ct
import numpy as np
import pytest
from pydantic import TypeAdapter
from rich.console import Console, RenderableType

from luthier.data import Ledger, Prepared, Template, prepare, show
from luthier.data.encode.template import Template as TemplateClass
from luthier.data.mixing import shares
from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES
from luthier.recipe import Recipe
from luthier.types import TokenStore


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(start, start + count)]


def recipe(data: Any, **more: Any) -> Recipe:
    made: Recipe = TypeAdapter(Recipe).validate_python({"model": "m", "data": data, "output": "o", **more})
    return made


def prepared(data: Any, template: str | None = ct.CHATML, **more: Any) -> Prepared:
    made = recipe(data, **more)
    return prepare(made, Template(ct.tokenizer(template)), OBJECTIVES.build(made.objective.name).needs)


def printed(what: RenderableType, **style: Any) -> str:
    console = Console(width=200, record=True, file=io.StringIO(), **style)
    console.print(what)
    return console.export_text(styles=bool(style))


def texts(store: TokenStore) -> list[str]:
    return [ct.tokenizer().decode(store[i].ids[0].tolist()) for i in range(len(store))]


def test_tokens_sources_and_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*rows(3), {"prompt": "a", "completion": None}, *rows(2), rows(1)[0]])
    given = prepared(path, train={"max_lost": 0.5})
    ledger, store, template = given.ledger, given.train, Template(ct.tokenizer())
    assert (ledger.rows_read, ledger.rows_kept, ledger.rows_dropped, ledger.duplicates) == (7, 6, 1, 3)
    assert ledger.reasons["'completion' is null, not text"].rows == [f"{path}:4"]
    assert [store.source(i).row for i in range(6)] == [1, 2, 3, 5, 6, 7]
    assert given.validation is None
    for i in range(len(store)):
        encoded = store[i]
        assert encoded.source == store.source(i)
        number = [0, 1, 2, 0, 1, 0][i]
        assert template.tokenizer.decode(encoded.ids[0][encoded.weights[0] > 0]) == f"It is {number}.<|im_end|>"
        assert store.lengths[i] == len(encoded) == len(encoded.ids[0])
        assert store.scored[i] == (encoded.weights[0] > 0).sum()
    assert ledger.tokens == store.lengths.sum() and ledger.scored == store.scored.sum()
    assert ledger.lengths["p100"] == store.lengths.max() and ledger.lengths["p50"] == np.sort(store.lengths)[2]
    assert store[-1].source == store.source(5)
    with pytest.raises(IndexError):
        store[6]


def test_the_ledger_survives_json_and_prints(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*rows(9), {"prompt": "a", "completion": 4}])
    ledger = prepared(path, train={"max_lost": 0.5}, validate={"share": 0.2}).ledger
    again = Ledger.from_json(json.loads(json.dumps(ledger.to_json())))
    assert again == ledger
    text = printed(ledger.table())
    assert "dropped 1: 'completion' is a number, not text" in text and f"{path}:10" in text
    assert "prompt_completion" in text


def test_deduplication_on_demand(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(2) + rows(3))
    assert len(prepared(path).train) == 5
    given = prepared(path, train={"dedup": True, "max_lost": 0})
    assert len(given.train) == 3 and given.ledger.deduplicated == 2 and given.ledger.lost == 0


LONG = {"messages": [{"role": role, "content": "word " * 10} for role in ("user", "assistant") * 3]}


def test_long_rows_are_refused_dropped_or_cut_after_a_whole_turn(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [LONG, LONG])
    whole = prepared(path).train
    first = int(np.flatnonzero(np.diff(whole[0].weights[0]) < 0)[0]) + 1  # behind the first answer
    with pytest.raises(
        LuthierError, match=rf"a.jsonl:1: 2 of 2 rows are longer than .*longest has {whole.lengths[0]} tokens"
    ):
        prepared(path, train={"max_tokens": first})
    with pytest.raises(LuthierError, match=r"nothing to train on.*long_rows: drop"):
        prepared(path, train={"max_tokens": first, "long_rows": "drop"})
    cut = prepared(path, train={"max_tokens": first + 5, "long_rows": "truncate"})
    assert cut.ledger.truncated == 2 and cut.train.lengths.tolist() == [first, first]  # whole turns, no part of one
    assert cut.train[0].ids[0].tolist() == whole[0].ids[0][:first].tolist()
    with pytest.raises(LuthierError, match=r"no scored token is left within train.max_tokens"):
        prepared(path, train={"max_tokens": first - 1, "long_rows": "truncate"})


def test_long_texts_are_split_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Paris is the capital. " * 20)
    whole = prepared(str(tmp_path / "a.txt"), None).train[0].ids[0]
    given = prepared(str(tmp_path / "a.txt"), None, train={"max_tokens": 16})
    parts = [given.train[i] for i in range(len(given.train))]
    assert np.concatenate([part.ids[0] for part in parts]).tolist() == whole.tolist()
    assert all(len(part.ids[0]) == 16 for part in parts[:-1])
    assert all(part.weights[0].tolist() == [0.0] + [1.0] * (len(part.ids[0]) - 1) for part in parts)
    assert given.ledger.split == 1 and given.ledger.rows_kept == 1 and given.ledger.examples == len(parts)


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "What is 2?"}])
    with pytest.raises(LuthierError, match=r"nothing to train on: none of 1 rows is left: there is no response"):
        prepared(path)
    muted = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}
    with pytest.raises(LuthierError, match="no token of it is scored"):
        prepared(write(tmp_path / "b.jsonl", [muted]))


def test_too_many_lost_rows_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*rows(8), {"prompt": "a", "completion": ""}, {"prompt": "a", "completion": 1}])
    with pytest.raises(LuthierError, match=r"20.0% of 10 rows are lost, train.max_lost allows 5.0%"):
        prepared(path)
    assert len(prepared(path, train={"max_lost": 0.2}).train) == 8


def test_unknown_roles_stop_the_run(tmp_path: Path) -> None:
    bad = [{"role": "user", "content": "a"}, {"role": "asistant", "content": "b"}]
    for messages in ([*bad, *LONG["messages"]], bad):
        path = write(tmp_path / "a.jsonl", [{"messages": LONG["messages"]}] * 30 + [{"messages": messages}])
        with pytest.raises(LuthierError, match=r"(?s)a.jsonl:31: .*role 'asistant'.*did you mean 'assistant'"):
            prepared(path)


def test_pretraining_scores_the_prompt_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(1))
    given = prepared({"path": path, "chat": False}, None, objective="pretrain")
    assert given.train[0].weights[0].tolist() == [0.0] + [1.0] * (given.train.lengths[0] - 1)


def test_pairs_keep_their_shared_prefix(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "What is 2?", "chosen": "It is 2.", "rejected": "user"}])
    encoded = prepared(path).train[0]
    assert len(encoded.ids) == 2 and encoded.shared > 5
    assert encoded.ids[0][: encoded.shared].tolist() == encoded.ids[1][: encoded.shared].tolist()
    assert not encoded.weights[0][: encoded.shared].any()


def test_weights_share_out_to_the_row(tmp_path: Path) -> None:
    a, b, c = (
        write(tmp_path / f"{name}.jsonl", rows(n, s)) for name, n, s in (("a", 30, 0), ("b", 11, 100), ("c", 5, 200))
    )
    data = [{"path": a, "weight": 1}, {"path": b, "weight": 3}, {"path": c}]
    first, again, other = (prepared(data, seed=seed) for seed in (0, 0, 1))
    used = [first.ledger.sources[name].used for name in (a, b, c)]
    assert used == [10, 31, 5]  # 41 rows one to three, and the third source once
    assert first.train.digest == again.train.digest != other.train.digest
    counts = np.unique([first.train.source(i).row for i in range(10, 41)], return_counts=True)[1]
    assert sorted(counts.tolist()) == [2, 2] + [3] * 9  # 31 = 2 x 11 + 9: no row comes much oftener than another
    assert len({first.train.source(i).row for i in range(10)}) == 10


def test_shares_are_exact() -> None:
    assert shares(41, [1, 3]) == [10, 31]
    assert shares(10, [1, 1, 1]) == [4, 3, 3]
    assert sum(shares(1001, [0.1, 0.7, 3.3])) == 1001


def test_llamafactorys_num_samples_repeats_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"instruction": f"What is {i}?", "output": "It is."} for i in range(4)])
    info = {"mine": {"file_name": "a.jsonl", "num_samples": 10}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    store = prepared({"llamafactory": str(tmp_path), "name": "mine"}).train
    assert len(store) == 10 and len({store.source(i).row for i in range(10)}) == 4


def test_rows_are_held_out_by_content(tmp_path: Path) -> None:
    many = rows(200) + rows(20)
    forward = prepared(write(tmp_path / "a.jsonl", many), validate={"share": 0.1})
    backward = prepared(write(tmp_path / "b.jsonl", many[::-1]), validate={"share": 0.1})
    assert forward.validation and backward.validation
    held, train = set(texts(forward.validation)), set(texts(forward.train))
    assert not held & train  # equal rows are on the same side
    assert held == set(texts(backward.validation)) and 8 <= len(held) <= 35
    assert forward.ledger.held_out == len(forward.validation) and forward.ledger.examples == len(forward.train)
    few = prepared(write(tmp_path / "c.jsonl", rows(4)), validate={"share": 0.01})
    assert few.validation and len(few.validation) == 1 and len(few.train) == 3


def test_validation_data_of_its_own(tmp_path: Path) -> None:
    train, apart = write(tmp_path / "a.jsonl", rows(5)), write(tmp_path / "b.jsonl", rows(2, 50))
    given = prepared(train, validate={"data": apart})
    assert given.validation and len(given.validation) == 2 and len(given.train) == 5
    assert given.ledger.validation and given.ledger.validation.rows_read == 2


def test_a_second_start_tokenises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_root: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(5))
    first = prepared(path)
    calls: list[int] = []
    honest = TemplateClass.encode_batch

    def counted(self: TemplateClass, examples: Any, *args: Any) -> Any:
        calls.append(len(examples))
        return honest(self, examples, *args)

    monkeypatch.setattr(TemplateClass, "encode_batch", counted)
    second = prepared(path)
    assert not calls and second.train.digest == first.train.digest and second.ledger == first.ledger
    assert texts(second.train) == texts(first.train)
    assert prepared(path, seed=5, validate={"share": 0.5}).validation  # mixing and holding out need no tokens
    assert not calls
    for change in ({"train": {"max_tokens": 99}}, {"train": {"loss_on": "all"}}):
        prepared(path, **change)
    prepared(path, ct.SMOLLM2)
    write(tmp_path / "a.jsonl", rows(6))
    assert len(prepared(path).train) == 6
    assert calls == [5, 5, 5, 6]
    assert len(list((cache_root / "tokens").iterdir())) == 5


def test_a_fault_leaves_no_half_written_cache(tmp_path: Path, cache_root: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(rows(1)[0]) + "\nbroken\n")
    with pytest.raises(LuthierError, match=r"a.jsonl:2: broken JSON"):
        prepared(str(path))
    assert not list((cache_root / "tokens").iterdir())


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the system refuses the write, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_cache_folder_has_a_clear_message(tmp_path: Path, cache_root: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(200))
    with small_disk(2000), pytest.raises(LuthierError, match=r"(?s)no space left.*the token cache.*LUTHIER_CACHE"):
        prepared(path)
    assert not list((cache_root / "tokens").iterdir())
    assert len(prepared(path).train) == 200


def test_a_damaged_cache_is_named(tmp_path: Path, cache_root: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(5))
    prepared(path)
    (ids,) = cache_root.rglob("ids.bin")
    ids.write_bytes(ids.read_bytes()[:-3])
    with pytest.raises(LuthierError, match=r"(?s)token cache is damaged.*delete that folder"):
        prepared(path)


def test_show_colours_what_trains(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(3))
    tokenizer = ct.tokenizer()
    given = prepare(recipe(path), Template(tokenizer))
    text = printed(show(given.train, Template(tokenizer), 2), force_terminal=True, color_system="standard")
    assert "\x1b[1;32mIt is 0.<|im_end|>\x1b[0m" in text
    assert "\x1b[2mWhat is 0?<|im_end|>" in text
    assert f"{path}:2" in text and "What is 2?" not in text
