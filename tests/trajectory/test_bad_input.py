"""Bad input: one clear message that names the place, a non-zero exit, no traceback, nothing left half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import CONTEXT, Bench, write_rows

from luthier.cli import main
from luthier.run import Run

Said = Callable[[], str]


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Said:
    """The one message on stderr. The screen may show other things before it."""

    def message() -> str:
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err + captured.out
        assert captured.err.count("error: ") == 1, captured.err
        return captured.err[captured.err.index("error: ") :].strip()

    return message


def lines(path: Path, *rows: Any) -> None:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


GOOD = {"prompt": "one", "completion": "two"}
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def test_a_missing_file_is_named_with_the_nearest_one(bench: Bench, said: Said) -> None:
    assert bench.here("train", data="rowz.jsonl") == 1
    assert "rowz.jsonl" in (text := said())
    assert "rows.jsonl" in text  # the nearest one


def test_broken_json_is_named_by_its_line(bench: Bench, said: Said) -> None:
    lines(bench.folder / "rows.jsonl", GOOD, GOOD, '{"prompt": "one", "completion": ', GOOD)
    assert bench.here("train") == 1
    assert said().startswith("error: rows.jsonl:3: broken JSON")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_said_to_be_empty(bench: Bench, said: Said, content: str) -> None:
    (bench.folder / "rows.jsonl").write_text(content)
    assert bench.here("train") == 1
    text = said()
    assert "rows.jsonl" in text
    assert "empty" in text


def test_unknown_columns_are_listed_with_the_key_that_maps_them(bench: Bench, said: Said) -> None:
    lines(bench.folder / "rows.jsonl", {"question": "one", "reply": "two"})
    assert bench.here("train") == 1
    text = said()
    assert "question, reply" in text
    assert "columns: {" in text


def test_a_file_of_mixed_shapes_is_refused_at_the_first_other_one(bench: Bench, said: Said) -> None:
    lines(bench.folder / "rows.jsonl", GOOD, CHAT)
    assert bench.here("train") == 1
    assert said().startswith("error: rows.jsonl:2: mixed shapes")


def test_a_role_the_template_does_not_know(bench: Bench, said: Said) -> None:
    odd = {"messages": [{"role": "narrator", "content": "a"}, {"role": "assistant", "content": "b"}]}
    lines(bench.folder / "rows.jsonl", CHAT, odd)
    assert bench.here("train") == 1
    text = said()
    assert "rows.jsonl:2" in text
    assert "narrator" in text


def test_a_model_folder_without_tokenizer(bench: Bench, said: Said, another_model: Callable[..., Path]) -> None:
    folder = another_model("bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert bench.here("train", model=str(folder)) == 1
    text = said()
    assert str(folder) in text
    assert "no tokenizer" in text


@pytest.mark.parametrize("name", ["smollm2-135m-instuct", "./nowhere/model", "nobody/nothing-at-all"])
def test_an_unknown_model_is_named_with_the_nearest_one(bench: Bench, said: Said, name: str) -> None:
    assert bench.here("train", model=name) == 1
    text = said()
    assert name in text
    if "/" not in name:
        assert "did you mean 'smollm2-135m-instruct'" in text


def test_text_that_is_not_utf8(bench: Bench, said: Said) -> None:
    (bench.folder / "rows.jsonl").write_bytes(
        json.dumps(GOOD).encode() + b'\n{"prompt": "caf\xe9", "completion": "b"}\n'
    )
    assert bench.here("train") == 1
    assert said().startswith("error: rows.jsonl:2: not UTF-8")


def test_a_row_longer_than_allowed(bench: Bench, said: Said) -> None:
    lines(bench.folder / "rows.jsonl", GOOD, {"prompt": "long", "completion": "x" * 200})
    assert bench.here("train") == 1
    text = said()
    assert "rows.jsonl:2" in text
    assert "train.max_tokens" in text
    assert "truncate" in text


def test_a_row_longer_than_the_context(bench: Bench, said: Said) -> None:
    lines(bench.folder / "rows.jsonl", GOOD, {"prompt": "long", "completion": "x" * CONTEXT})
    assert bench.here("train", "train.max_tokens=4096") == 1
    text = said()
    assert text.startswith("error: rows.jsonl:2: the row has")
    assert f"context is {CONTEXT}" in text


def test_a_validation_row_longer_than_the_context_and_room_that_virtual_tokens_take(bench: Bench, said: Said) -> None:
    lines(bench.folder / "rows.jsonl", GOOD)
    lines(bench.folder / "apart.jsonl", GOOD, {"prompt": "long", "completion": "x" * CONTEXT})
    assert bench.here("data", "train.max_tokens=4096", "validate.data=apart.jsonl") == 1
    assert said().startswith("error: apart.jsonl:2: the row has")
    assert bench.here("data", "adapt=prefix", f"adapt.prefix.tokens={CONTEXT - 2}") == 1
    assert f"beside {CONTEXT - 2} virtual tokens the model's context is 2" in said()


def test_a_share_that_holds_out_nothing_or_everything(
    bench: Bench, said: Said, capfd: pytest.CaptureFixture[str]
) -> None:
    """Judged answers to one prompt are held out together: all of them or none."""
    lines(bench.folder / "rows.jsonl", {**GOOD, "label": True}, {**GOOD, "completion": "three", "label": False})
    assert bench.here("data", "objective=kto", "validate.share=0.001") == 0
    assert "validate.share holds out no row" in "".join(capfd.readouterr())
    assert bench.here("data", "objective=kto", "validate.share=0.001", "validate.patience=1") == 1
    assert "so nothing can stop the run early" in said()
    assert bench.here("data", "objective=kto", "validate.share=0.999") == 1
    assert "validate.share holds out all 2 rows" in said()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluate.0.data=absent.jsonl"], "absent.jsonl: no such file"),
        (["evaluate.0.data=long.jsonl"], "long.jsonl:1: the prompt has"),
        (["evaluate.0.data=bare.jsonl"], "they have no `answer`"),
        (
            [
                "evaluate.0.data=rows.jsonl",
                "evaluate.0.best_of=2",
                "evaluate.0.temperature=1",
                "evaluate.0.by=perplexity",
            ],
            "picks by 'perplexity', which does not judge an answer",
        ),
    ],
)
def test_tasks_that_cannot_be_scored_are_told_before_training(
    bench: Bench, said: Said, overrides: list[str], message: str
) -> None:
    lines(bench.folder / "rows.jsonl", GOOD)
    lines(bench.folder / "long.jsonl", {"prompt": "x" * CONTEXT, "completion": "y"})
    lines(bench.folder / "bare.jsonl", {"prompt": "x"})
    assert bench.here("train", *overrides) == 1
    assert message in said()
    assert not Run(bench.run).events_path.exists(), "nothing has trained"


def test_a_run_folder_in_use(bench: Bench, said: Said) -> None:
    with Run(bench.run).locked():
        assert bench.here("train") == 1
        assert said().startswith("error: run: the run folder is in use by another process (pid ")


def test_a_folder_that_is_no_run(bench: Bench, said: Said) -> None:
    bench.run.mkdir()
    (bench.run / "thesis.txt").write_text("mine")
    assert bench.here("train") == 1
    assert "not empty and holds no run (thesis.txt)" in said()
    assert bench.inside(main, "export", "nowhere") == 1
    assert "not a run folder" in said()
    assert bench.inside(main, "evaluate", ".") == 1
    assert "not a run folder" in said()


def test_a_folder_of_another_recipe(bench: Bench, said: Said) -> None:
    assert bench.here("train", "train.steps=1") == 0
    before = (bench.run / "recipe.lock.yaml").read_text()
    assert bench.here("train", "train.steps=1", "train.lr=0.5", "adapt.lora.r=2") == 1
    text = said()
    assert "train.lr (0.01 there, 0.5 here)" in text
    assert "adapt.0.lora.r (4 there, 2 here)" in text
    assert (bench.run / "recipe.lock.yaml").read_text() == before


@pytest.mark.parametrize("options", [{"seed": 1}, {"hidden": 64}], ids=["other weights", "other size"])
def test_a_base_that_does_not_match_the_adapter(
    bench: Bench, said: Said, another_model: Callable[..., Path], options: dict[str, int]
) -> None:
    folder = another_model("base")
    assert bench.here("train", "train.steps=1", model={"name": str(folder), "dtype": "fp32"}) == 0
    shutil.rmtree(folder)
    another_model("base", **options)
    for arguments in (("export", "run"), ("evaluate", "run", "evaluate.0.data=rows.jsonl")):
        assert bench.inside(main, *arguments) == 1
        text = said()
        assert "not the one that was trained on" in text
        assert "run/adapter" in text
    assert not (bench.run / "merged").exists()


def test_wrong_keys_and_plugins(bench: Bench, said: Said) -> None:
    for override, message in [
        ("train.bach=3", "error: override train.bach=3: unknown key 'train.bach'"),
        ("adapt.lora.rank=3", "error: override adapt.lora.rank=3: adapter 'lora' has no key 'rank'"),
        ("train.optimizer=adamv", "error: override train.optimizer=adamv: unknown optimizer 'adamv'"),
        ("adapt=[full, lora]", "error: override adapt=[full, lora]: `full` trains every weight"),
        ("evaluate={data: rows.jsonl, scorers: blue}", "unknown scorer 'blue'"),
    ]:
        assert bench.here("train", override) == 1
        assert message in said()
    assert not bench.run.exists()


# full disks
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a tmpfs of so many bytes; skips where that is not allowed."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("a tmpfs cannot be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def _no_leftovers(folder: Path) -> None:
    assert not [path for path in folder.rglob("*") if path.name.startswith((".writing", ".tmp", ".recipe.lock"))]


def test_no_space_for_a_checkpoint_on_a_small_disk(bench: Bench, said: Said, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(128 * 1024)
    settings = ("adapt=full", f"output={disk / 'run'}", "train.steps=4", "train.save_every=2")
    assert bench.here("train", *settings) == 1
    text = said()
    assert "no space left for a checkpoint" in text
    assert str(disk / "run") in text
    _no_leftovers(disk)
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
    assert bench.here("train", *settings) == 0
    assert (disk / "run" / "model" / "config.json").exists()


def test_no_space_for_a_checkpoint_under_a_quota(bench: Bench) -> None:
    """Files may grow to 64 KiB; the checkpoint of a full fine-tune is larger. Works without root."""
    write_rows(bench.folder / "rows.jsonl")
    settings = ("adapt=full", "train.steps=4", "train.save_every=2")
    quota = ("bash", "-c", 'ulimit -f 64; exec "$@"', "-")
    done = bench("train", *settings, prefix=quota)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no space left for a checkpoint" in done.stderr
    _no_leftovers(bench.run)
    assert not any((bench.run / "checkpoints").glob("step-*"))
    assert bench("train", *settings).returncode == 0


def test_a_full_cache_folder(bench: Bench, said: Said, small_disk: Callable[[int], Path]) -> None:
    bench.cache = small_disk(16 * 1024)
    write_rows(bench.folder / "rows.jsonl", 2000)
    assert bench.here("train") == 1
    text = said()
    assert "no space left" in text
    assert "LUTHIER_CACHE" in text
    assert not [path for path in bench.cache.rglob("*") if path.is_file()]


def test_a_cache_folder_under_a_quota(bench: Bench) -> None:
    write_rows(bench.folder / "rows.jsonl", 2000)
    done = bench("train", prefix=("bash", "-c", 'ulimit -f 16; exec "$@"', "-"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no space left" in done.stderr
    assert "LUTHIER_CACHE" in done.stderr


def test_a_cache_folder_that_cannot_be_made(bench: Bench, said: Said) -> None:
    bench.cache = bench.folder / "rows.jsonl" / "cache"
    assert bench.here("train") == 1
    assert str(bench.cache) in said()


def test_no_space_for_the_export_leaves_nothing(bench: Bench, said: Said, small_disk: Callable[[int], Path]) -> None:
    assert bench.here("train", "train.steps=1") == 0
    disk = small_disk(32 * 1024)
    assert bench.inside(main, "export", "run", "--folder", str(disk / "out")) == 1
    assert "no space left" in said()
    assert list(disk.iterdir()) == []
