"""The theorems: enough of them, each proved by the proof it comes with, none on both sides of the split."""

import json
import shutil
from pathlib import Path

import pytest

from luthier.data import Ledger, read
from luthier.demo.theorem_forms import HEADER, theorems
from luthier.demo.theorems import split, write
from luthier.scorers.proofs.checker import Claim
from luthier.scorers.proofs.coq import Coq

coq_there = pytest.mark.skipif(shutil.which("coqc") is None, reason="Coq is not there: apt install coq")


def test_there_are_enough_and_the_split_shares_no_statement() -> None:
    train, held = split()
    assert len(theorems()) == len(train) + len(held) >= 250 and len(held) >= 50
    assert not {statement for statement, _ in train} & {statement for statement, _ in held}
    assert split() == split() and split(1) != split()
    assert max(len(proof) for _, proof in theorems()) <= 80 and all("\n" not in proof for _, proof in theorems())


def test_no_one_line_is_the_proof_of_a_third_of_them() -> None:
    proofs = [proof for _, proof in theorems()]
    assert len(set(proofs)) >= 45 and max(proofs.count(one) for one in set(proofs)) < len(proofs) / 3


def test_rows_are_written_and_read(tmp_path) -> None:
    paths = write(tmp_path)
    assert [path.name for path in paths] == [
        "theorems.jsonl",
        "problems.jsonl",
        "theorems-heldout.jsonl",
        "problems-heldout.jsonl",
    ]
    for path, (known, proved) in zip(paths, [(s, p) for s in split() for p in (True, False)], strict=True):
        examples = list(read([str(path)], Ledger()))
        assert [one.meta["statement"] for one in examples] == [statement for statement, _ in known]
        assert all(len(one.responses) == proved for one in examples)
        first = json.loads(path.read_text().splitlines()[0])
        assert first["statement"] in first["prompt"] and first.get("proof", known[0][1]) == known[0][1]


def test_the_rows_of_the_pipeline_that_ships_are_these(tmp_path) -> None:
    data = Path(__file__).parents[3] / "recipes" / "data"
    for path in write(tmp_path)[::2]:
        assert (data / path.name).read_bytes() == path.read_bytes(), f"python -m luthier.demo.theorems {data}"


@coq_there
def test_a_sample_of_the_known_proofs_is_right() -> None:
    assert wrong(theorems()[::9]) == []


@coq_there
@pytest.mark.slow
def test_all_known_proofs_are_right_and_fresh_processes_agree() -> None:
    assert wrong(theorems()) == []
    assert wrong(theorems()[::12], Coq(fresh=True)) == []


def wrong(some: list[tuple[str, str]], coq: Coq | None = None) -> list[tuple[str, str, str]]:
    verdicts = (coq or Coq()).check_many([(Claim(statement, HEADER), proof) for statement, proof in some])
    return [(*one, verdict.message) for one, verdict in zip(some, verdicts, strict=True) if verdict.judged != "right"]
