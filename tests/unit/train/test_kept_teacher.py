"""A teacher whose likeliest tokens are kept on disk: as if it were there, without it."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_judged import Judged

from luthier import cache
from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES
from luthier.recipe.schema import Teacher, Validate
from luthier.run import Run
from luthier.train import Beside, fit
from luthier.train.roles.teacher import Form

ALL = tiny.VOCABULARY + 1


def sharp() -> Any:
    return tiny.model(7, hidden_size=48, initializer_range=0.3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


class Learner:
    """One run of gkd on the data's own answers. `opened`: how often the teacher was loaded; it must be gone by the
    first step."""

    def __init__(
        self,
        folder: Path,
        top: int | None = 8,
        *,
        beta: float = 0.0,
        store: Any = None,
        module: Any = None,
        teacher: Callable[[], Any] = sharp,
        kept: str = "fp32",
        digest: str = "t",
        held_out: Any = None,
        watch: Any = None,
        **train: Any,
    ) -> None:
        validate = Validate(every=1) if held_out is not None else None
        recipe = tiny.recipe(
            folder, validate=validate, **{"steps": 4, "schedule": "constant", "warmup": 0, "save_every": 100, **train}
        )
        asked = Teacher(model="t", top=top, kept=kept)  # type: ignore[arg-type]
        self.recipe, self.run, self.policy = (
            replace(recipe, teacher=asked),
            Run(folder),
            tiny.Policy(tiny.lora() if module is None else module),
        )
        self.opened, self.alive, self._teacher = 0, list[Any](), teacher
        self._store = tiny.Prepared(tiny.Store(16) if store is None else store, held_out)
        self._beside = Beside({"teacher": self._open}, digests={"teacher": lambda: digest}, watch=watch)
        self._objective = OBJECTIVES.build("gkd", {"own": 0.0, "beta": beta})

    def _open(self) -> Any:
        self.opened += 1
        module = self._teacher()
        self.alive.append(weakref.ref(module))
        return tiny.Policy(module)

    def fit(self) -> Learner:
        fit(self.policy, self._objective, self._store, self.recipe, self.run, self._beside)
        return self

    @property
    def losses(self) -> list[float]:
        return [event["loss"] for event in self.run.events("step")]

    @property
    def start(self) -> dict[str, Any]:
        return next(iter(self.run.events("start")))["teacher"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("full", [False, True], ids=["head frozen", "head trains"])
def test_with_the_whole_vocabulary_it_is_the_teacher_itself(tmp_path: Path, beta: float, full: bool) -> None:
    runs = [
        Learner(tmp_path / str(top), top, beta=beta, module=tiny.model() if full else None).fit() for top in (None, ALL)
    ]
    live, kept = runs
    assert kept.losses == pytest.approx(live.losses, rel=2e-5) and live.losses[-1] < live.losses[0]
    torch.testing.assert_close(kept.policy.snapshot(), live.policy.snapshot(), rtol=1e-3, atol=1e-3)
    assert kept.start["held"] == pytest.approx(1.0) and kept.start["apart"] == pytest.approx(0.0, abs=1e-9)


def test_it_is_gone_before_the_first_step_and_never_loaded_again(tmp_path: Path) -> None:
    seen: list[Any] = []

    def watch(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 1:
            gc.collect()
            seen.extend(ref() for ref in first.alive)

    first = Learner(tmp_path / "a", watch=watch)
    first.fit()
    assert first.opened == 1 and seen == [None]
    again = Learner(tmp_path / "b", teacher=lambda: pytest.fail("loaded again")).fit()
    assert again.opened == 0 and again.losses == first.losses
    others = Learner(tmp_path / "c", digest="other", teacher=lambda: tiny.model(9)).fit()
    assert others.opened == 1 and others.losses != first.losses


def test_the_rest_as_one_is_a_coarser_look(tmp_path: Path) -> None:
    firsts = [Learner(tmp_path / str(top), top, steps=1).fit() for top in (1, 4, 16, ALL)]
    losses = [run.losses[0] for run in firsts]
    assert losses == sorted(losses) and losses[0] < 0.95 * losses[-1]
    held = [run.start["held"] for run in firsts]
    assert held == sorted(held) and held[0] < 0.9 and held[-1] == pytest.approx(1.0)
    assert firsts[-1].start["top"] == ALL and Learner(tmp_path / "x", 10**6, steps=1).fit().start["top"] == ALL


def test_half_precision_is_next_to_nothing_and_told(tmp_path: Path) -> None:
    exact, half = (Learner(tmp_path / kept, 16, kept=kept).fit() for kept in ("fp32", "fp16"))
    assert half.losses == pytest.approx(exact.losses, rel=1e-3) and half.losses != exact.losses
    start = half.start
    assert 1e-5 < start["off"] < 0.01 and 0 <= start["apart"] < 1e-5
    assert start["kept"] == "fp16" and start["bytes"] == int(tiny.Store(16).scored.sum()) * (16 * 4 + 4)
    folders = list((cache.root() / "teacher").iterdir())
    assert {cache.size_of(f) - (f / "meta.json").stat().st_size for f in folders} == {
        run.start["bytes"] + 17 * 8 + 16 * 16 for run in (exact, half)
    }


@pytest.mark.parametrize(("known", "size"), [(49_152, 4 * 64 + 4), (151_936, 6 * 64 + 4), (10, 4 * 10 + 4)])
def test_what_a_token_takes(known: int, size: int) -> None:
    assert Form(64, known, "fp16").token_bytes == size


def test_shared_prompts_packed_padded_and_in_small_micro_batches_alike(tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [{}, {"share_prefix": False}, {"layout": "padded"}, {"micro_tokens": 60}]
    runs = [Learner(tmp_path / str(n), store=Judged(8, responses=3), **way).fit() for n, way in enumerate(ways)]
    for run in runs[1:]:
        assert run.losses == pytest.approx(runs[0].losses, rel=1e-4)
        torch.testing.assert_close(run.policy.snapshot(), runs[0].policy.snapshot(), rtol=1e-3, atol=1e-3)


def test_rows_come_several_times_and_are_kept_once(tmp_path: Path) -> None:
    store = tiny.Store(8)
    once = int(store.scored.sum())
    store.encoded *= 2
    run = Learner(tmp_path, store=store).fit()
    assert run.start["bytes"] == once * Form(8, ALL, "fp32").token_bytes


def test_held_out_rows_are_kept_too(tmp_path: Path) -> None:
    run = Learner(tmp_path, held_out=tiny.Store(5, seed=3)).fit()
    losses = [event["loss"] for event in run.run.events("evaluation")]
    live = Learner(tmp_path / "live", None, held_out=tiny.Store(5, seed=3)).fit()
    assert losses[-1] < losses[0] and len(list((cache.root() / "teacher").iterdir())) == 2
    assert losses[0] == pytest.approx(next(live.run.events("evaluation"))["loss"], rel=0.3)


def test_a_teacher_of_another_layout_reads_the_rows_in_its_own(tmp_path: Path) -> None:
    """Live, it could not be read beside this model."""
    from transformers import AutoModelForCausalLM

    def capped() -> Any:
        torch.manual_seed(3)
        return AutoModelForCausalLM.from_config(tiny.config("gemma2", initializer_range=0.3))

    run = Learner(tmp_path, store=tiny.Store(4), teacher=capped).fit()  # the same four rows each step
    assert run.losses[-1] < run.losses[0]
    with pytest.raises(LuthierError, match="the teacher cannot read the rows as the model does"):
        Learner(tmp_path / "live", None, teacher=capped).fit()


def test_a_teacher_with_more_rows_than_the_model_has_tokens(tmp_path: Path) -> None:
    """Families pad their vocabularies to other sizes: what stands for no token counts to the rest."""
    run = Learner(tmp_path, teacher=lambda: tiny.model(7, vocab_size=ALL + 7, initializer_range=0.3)).fit()
    assert run.losses[-1] < run.losses[0] and run.start["held"] < 1


def test_a_killed_run_ends_with_the_same_weights_to_the_bit(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    whole = Learner(tmp_path / "whole", save_every=2).fit()

    def kill(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        Learner(tmp_path / "killed", save_every=2, watch=kill).fit()
    ended = Learner(tmp_path / "killed", save_every=2, teacher=lambda: pytest.fail("loaded again")).fit()
    for name, weight in ended.policy.snapshot().items():
        assert torch.equal(weight, whole.policy.snapshot()[name]), name


def test_memory_that_runs_out_while_it_is_read_halves_the_micro_batches(tmp_path: Path) -> None:
    calls: list[int] = []

    def short() -> Any:
        module = sharp()

        def look(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            calls.append(kwargs["input_ids"].numel())
            if calls[-1] > 70:
                raise torch.OutOfMemoryError("CUDA out of memory")

        module.model.register_forward_pre_hook(look, with_kwargs=True)
        return module

    run = Learner(tmp_path / "short", teacher=short, share_prefix=False).fit()
    assert max(calls) > 70 and run.losses == pytest.approx(Learner(tmp_path / "b", digest="b").fit().losses, rel=1e-4)


def test_a_full_disk_is_known_before_the_teacher_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("luthier.cache.shutil.disk_usage", lambda _: usage)
    run = Learner(tmp_path)
    with pytest.raises(LuthierError, match="no space left on the disk while writing what the teacher says"):
        run.fit()
    assert run.opened == 0


def test_what_is_damaged_is_told(tmp_path: Path) -> None:
    Learner(tmp_path / "a").fit()
    (folder,) = (cache.root() / "teacher").iterdir()
    whole = (folder / "logp.bin").read_bytes()
    (folder / "logp.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LuthierError, match=r"what was kept of the teacher is damaged.*\n?.*delete that folder"):
        Learner(tmp_path / "b").fit()
    (folder / "logp.bin").write_bytes(whole)
    (folder / "meta.json").write_text(json.dumps({})[:1])
    with pytest.raises(LuthierError, match="is damaged"):
        Learner(tmp_path / "c").fit()


def test_rows_that_are_made_on_the_way_cannot_be_kept(tmp_path: Path) -> None:
    from luthier.train import sources
    from luthier.train.sources.static import Static

    learner = Learner(tmp_path)
    static = sources.of(tiny.Store(16), learner.recipe)
    assert isinstance(static, Static)

    class Made(Static):
        def every(self) -> None:
            """They are made on the way."""

    learner._store = tiny.Prepared(Made(static.store, static.order, static.total))  # type: ignore[arg-type]
    with pytest.raises(LuthierError, match=r"`teacher\.top` keeps what a teacher says of rows that are known"):
        learner.fit()
    assert np.isfinite(learner.opened) and learner.opened == 0
