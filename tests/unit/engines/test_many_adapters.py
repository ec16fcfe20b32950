"""Many adapters over one base in one pass: each answers as if it had the model to itself."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_tokenizers import words

from luthier.engines import LocalEngine
from luthier.errors import LuthierError
from luthier.models.decode import adapters
from luthier.types import Encoded, Request, Sampling

PROMPT = tuple(range(5, 40))
GREEDY = Sampling(max_new_tokens=12)
WARM = Sampling(max_new_tokens=12, temperature=1.0, seed=3)
KINDS: dict[str, dict[str, Any]] = {
    "small": {"r": 2, "target_modules": ["q_proj", "v_proj"]},
    "large": {"r": 9, "target_modules": "all-linear", "lora_alpha": 5},
    "rs": {"r": 4, "target_modules": ["down_proj", "o_proj"], "use_rslora": True},
    "pattern": {
        "r": 3,
        "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"layers.1.*.q_proj": 7},
        "alpha_pattern": {"layers.1.*.q_proj": 3, "up_proj": 20},
    },
}


def base() -> Any:
    return tiny.model(hidden_size=64, initializer_range=0.1).eval()


def saved(folder: Path, seed: int = 0, **settings: Any) -> str:
    torch.manual_seed(seed)
    module = get_peft_model(base(), LoraConfig(init_lora_weights=False, **settings))
    module.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("adapters")
    return {name: saved(home / name, seed, **kind) for seed, (name, kind) in enumerate(KINDS.items())}


def engine(module: Any = None, **sizes: int) -> LocalEngine:
    return LocalEngine(base() if module is None else module, words(65), (), **sizes)


def loaded(folders: dict[str, str], **sizes: int) -> LocalEngine:
    made = engine(**sizes)
    for name, folder in folders.items():
        made.load_adapter(name, folder)
    return made


def test_all_kinds_and_none_in_one_batch_are_each_alone(folders: dict[str, str]) -> None:
    made = loaded(folders)
    asked: list[str | None] = [None, *folders, None]
    requests = [Request(PROMPT, WARM, n=2, adapter=name, id=str(place)) for place, name in enumerate(asked)]
    together = {(one.request, one.index): one for one in made.run(requests)}
    assert made._lanes.keys() == {None}, "an adapter had the model to itself"
    for place, name in enumerate(asked):
        alone = engine()
        if name is not None:
            alone.load_adapter(name, folders[name])
        own = list(alone.run([Request(PROMPT, WARM, n=2, adapter=name, id=str(place))]))
        for one in own:
            beside = together[one.request, one.index]
            assert beside.sampled == one.sampled and beside.logprobs == one.logprobs, "bits differ"
    assert len({together[str(place), 0].sampled for place in range(len(asked) - 1)}) == len(asked) - 1


def test_each_is_what_peft_makes_of_it(folders: dict[str, str]) -> None:
    made = loaded(folders)
    for name, folder in folders.items():
        (one,) = made.run([Request(PROMPT, GREEDY, adapter=name)])
        module = PeftModel.from_pretrained(base(), folder).eval()
        with torch.no_grad():
            log = module(torch.tensor([[*PROMPT, *one.sampled]])).logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
        assert log.argmax(-1).tolist() == list(one.sampled)
        np.testing.assert_allclose(one.logprobs, log.max(-1).values, atol=1e-5)
        ids = np.array([*PROMPT, *one.sampled], np.int32)
        weights = np.r_[np.zeros(len(PROMPT)), np.ones(len(one.sampled))].astype(np.float32)
        (scored,) = made.logprobs([Encoded((ids,), (weights,))], name)
        np.testing.assert_allclose(scored, one.logprobs, atol=1e-5)
        assert list(made.run([Request(PROMPT, GREEDY, adapter=name)])) == [one]


def test_what_one_adapter_read_is_not_read_on_under_another(folders: dict[str, str]) -> None:
    made = loaded(folders)
    answers = [next(made.run([Request(PROMPT, GREEDY, adapter=name)])) for name in (None, "small", "large", "small")]
    assert [one.cached for one in answers] == [0, 0, 0, 32]
    assert answers[1] == answers[3]
    assert len({one.ids for one in answers[:3]}) == 3


def test_a_name_that_comes_again_is_another_adapter(folders: dict[str, str]) -> None:
    made = engine()
    made.load_adapter("it", folders["small"])
    first = next(made.run([Request(PROMPT, GREEDY, adapter="it")]))
    with pytest.raises(LuthierError, match="loaded already"):
        made.load_adapter("it", folders["large"])
    made.drop_adapter("it")
    with pytest.raises(LuthierError, match="no adapter 'it' is loaded"):
        made.run([Request(PROMPT, GREEDY, adapter="it")])
    made.load_adapter("it", folders["large"])
    second = next(made.run([Request(PROMPT, GREEDY, adapter="it")]))
    assert second.cached == 0 and second.ids != first.ids


def test_more_than_there_is_room_for_come_and_go(folders: dict[str, str]) -> None:
    size = max((Path(folder) / "adapter_model.safetensors").stat().st_size for folder in folders.values())
    tight, roomy = loaded(folders, adapters=size), loaded(folders)
    requests = [Request(PROMPT, WARM, adapter=name, id=place) for place, name in enumerate([*folders, *folders])]

    def answers(made: LocalEngine) -> dict[Any, tuple[int, ...]]:
        return {one.request: one.sampled for request in requests for one in made.run([request])}

    assert answers(tight) == answers(roomy)
    pool = tight._beside
    assert pool is not None and pool.dropped > 0 and pool.held <= size
    together = {one.request: one.sampled for one in tight.run(requests)}  # all in use at once: none may be thrown out
    assert together == answers(roomy)


def test_reading_one_holds_nobody_up(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    read = adapters.read

    def slowly(*args: Any) -> Any:
        time.sleep(0.5)
        return read(*args)

    monkeypatch.setattr(adapters, "read", slowly)
    made = loaded(folders)
    requests = [Request(PROMPT, GREEDY, adapter=name, id=str(name)) for name in ("small", None)]
    assert [one.request for one in made.run(requests)] == ["None", "small"]


def test_one_under_way_cannot_be_dropped(folders: dict[str, str]) -> None:
    made = loaded(folders)
    ticket = made.submit(Request(PROMPT, GREEDY, adapter="small"))
    made.step()
    with pytest.raises(LuthierError, match="1 answers under way need the adapter 'small'"):
        made.drop_adapter("small")
    made.cancel(ticket)
    made.step()
    made.drop_adapter("small")
    assert "small" not in made.adapters


def test_beside_an_adapter_that_is_live(folders: dict[str, str]) -> None:
    module = PeftModel.from_pretrained(base(), folders["rs"]).eval()
    made = engine(module)
    made.load_adapter("other", folders["small"])
    own, other = (next(made.run([Request(PROMPT, GREEDY, adapter=name)])) for name in (None, "other"))
    plain = loaded(folders)
    assert own.ids == next(plain.run([Request(PROMPT, GREEDY, adapter="rs")])).ids
    assert other.ids == next(plain.run([Request(PROMPT, GREEDY, adapter="small")])).ids


@pytest.mark.parametrize("kind", ["dora", "prefix"])
def test_what_needs_the_model_to_itself_has_it(tmp_path: Path, folders: dict[str, str], kind: str) -> None:
    config: Any = {
        "dora": LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, init_lora_weights=False),
        "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }[kind]
    module = get_peft_model(base(), config)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "magnitude" in name or "prompt" in name:
                weight.mul_(3).add_(0.1)
    module.save_pretrained(tmp_path / "it")
    made = loaded(folders)
    alone = next(made.run([Request(PROMPT, GREEDY)]))
    made.load_adapter("it", str(tmp_path / "it"))
    requests = [Request(PROMPT, GREEDY, adapter=name, id=str(name)) for name in ("it", None, "large")]
    answers = {one.request: one for one in made.run(requests)}
    assert answers["None"].ids == alone.ids
    own = PeftModel.from_pretrained(base(), tmp_path / "it").eval()
    ids = torch.tensor([[*PROMPT, *answers["it"].ids]])
    with torch.no_grad():
        logits = own(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(answers["it"].ids) - 1 : -1]
    assert logits.argmax(-1).tolist() == list(answers["it"].ids)


def test_what_is_broken_is_refused_by_name(tmp_path: Path, folders: dict[str, str]) -> None:
    source = Path(folders["small"])

    def copy(name: str, change: Any) -> str:
        folder = tmp_path / name
        folder.mkdir()
        config = json.loads((source / "adapter_config.json").read_text())
        weights = load_file(source / "adapter_model.safetensors")
        change(folder, config, weights)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        if not (folder / "adapter_model.safetensors").exists():
            save_file(weights, folder / "adapter_model.safetensors")
        return str(folder)

    def wide(folder: Path, config: Any, weights: Any) -> None:
        for key in weights:
            if "lora_A" in key:
                weights[key] = torch.zeros(2, 32)

    def lies(folder: Path, config: Any, weights: Any) -> None:
        (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 400)

    def half(folder: Path, config: Any, weights: Any) -> None:
        del weights[next(key for key in weights if "lora_B" in key)]

    def nowhere(folder: Path, config: Any, weights: Any) -> None:
        key = next(key for key in weights if "lora_B" in key)
        for name in (key, key.replace("lora_B", "lora_A")):
            weights[name.replace("layers.0", "layers.7")] = weights[name].clone()

    def alpha(folder: Path, config: Any, weights: Any) -> None:
        config["lora_alpha"] = "much"

    made = engine()
    for change, said in ((wide, "the matrix is"), (lies, "cannot be read"), (half, "has only"), (alpha, "lora_alpha"),
                         (nowhere, "no matrix of")):  # fmt: skip
        with pytest.raises(LuthierError, match=said):
            made.load_adapter("it", copy(change.__name__, change))
    with pytest.raises(LuthierError, match="no adapter_config"):
        made.load_adapter("it", str(tmp_path))
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "adapter_config.json").write_text((source / "adapter_config.json").read_text())
    (tmp_path / "pickle" / "adapter_model.bin").write_bytes(b"not to be opened")
    with pytest.raises(LuthierError, match="no other file is opened"):
        made.load_adapter("it", str(tmp_path / "pickle"))
    assert made.adapters == []

    def nan(folder: Path, config: Any, weights: Any) -> None:
        next(iter(weights.values())).fill_(torch.nan)

    made.load_adapter("nan", copy("nan", nan))
    with pytest.raises(LuthierError, match="NaN"):
        list(made.run([Request(PROMPT, GREEDY, adapter="nan")]))
    assert not made.busy and len(made.generate([PROMPT], GREEDY)) == 1


def test_what_was_read_is_laid_out_beside_the_answers_and_not_copied_again(tmp_path: Path) -> None:
    """The engine's own thread has nothing left to do with its numbers, however large these are."""
    folder = saved(tmp_path / "it", r=2, target_modules=["q_proj"])
    weights = load_file(Path(folder) / "adapter_model.safetensors")
    next(iter(weights.values())).fill_(3e38)  # finite each, and not their sum
    save_file(weights, Path(folder) / "adapter_model.safetensors")
    made = engine()
    made.load_adapter("it", folder)
    assert made._beside is not None
    found = made._beside._reader.adapter(Path(folder))
    for lora in found.values():
        assert lora.ready and lora.laid_out(False) is lora and lora.up.T.is_contiguous()


def test_one_that_changed_on_disk_is_not_taken_for_what_was_loaded(tmp_path: Path) -> None:
    folder = saved(tmp_path / "it", r=2, target_modules=["q_proj"])
    made = engine()
    made.load_adapter("it", folder)
    saved(tmp_path / "it", seed=1, r=3, target_modules=["q_proj"])
    with pytest.raises(LuthierError, match="has changed on disk"):
        list(made.run([Request(PROMPT, GREEDY, adapter="it")]))
