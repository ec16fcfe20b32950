"""The compiled step as other processors build it: what they would read, on this one."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator

import paged
import pytest
import torch

from luthier.models.blocks.kernels import decode

pytestmark = pytest.mark.skipif(
    decode.library() is None or platform.machine() != "x86_64", reason="no C compiler for x86-64"
)
BUILDS = {
    "four lanes, without fused multiply-and-add": ["-march=x86-64"],
    "sixteen lanes and pairs of bf16, as with AVX512-BF16": [
        *("-march=x86-64", "-DLANES=16", "-DPORTABLE_PAIRS", "-Wno-psabi"),
    ],
}


@pytest.fixture
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside the test the step is the one that is built with these flags."""
    flags = [flag for flag in decode.FLAGS if not flag.startswith("-march")]
    monkeypatch.setattr(decode, "FLAGS", [*flags, "-O1", *BUILDS[request.param]])
    decode.library.cache_clear()
    assert decode.library() is not None
    yield
    decode.library.cache_clear()


@pytest.mark.parametrize("build", BUILDS, indirect=True)
def test_another_build_reads_the_same_model(build: None) -> None:
    for family in ("llama", "qwen3"):
        for dtype, close in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
            module, ids = paged.adapted(paged.model(family, dtype)), paged.tokens(37)
            reader = paged.reader(module)
            found = paged.read(reader, ids, 0)
            with torch.no_grad():
                theirs = module(torch.tensor([ids])).logits[0].float()
            assert (found - theirs).abs().mean() < close * theirs.abs().mean()
            assert torch.equal(paged.read(reader, ids, 8, (len(ids),))[0], found[-1]), "as a whole and token by token"
            assert torch.equal(paged.read(reader, ids, 16, (6, 1, 30))[-1], found[-1])


def test_it_builds_for_processors_with_avx512(tmp_path: object) -> None:
    flags = ["-O0", "-fopenmp", "-mavx512f", "-mavx512bf16", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"]
    command = ["cc", *flags, "-Wall", "-Werror", "-c", str(decode.SOURCES[0]), "-o", "/dev/null"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
