"""The command line, from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
VERBS = ("train", "evaluate", "export", "chat", "data", "models", "explain", "plan", "schema", "demo", "version")


def luthier(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "luthier", *arguments], capture_output=True, text=True, cwd=cwd)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "r.yaml"
    file.write_text("model: smollm2-135m-instruct\ndata: rows.jsonl\nadapt: {lora: {r: 4}}\noutput: runs/a\n")
    return file


def test_help_lists_the_verbs() -> None:
    done = luthier("--help")
    assert done.returncode == 0
    for verb in VERBS:
        assert f" {verb} " in done.stdout
        assert luthier(verb, "--help").returncode == 0 if verb in ("train", "chat") else True


def test_a_misspelt_verb_is_named() -> None:
    done = luthier("trian")
    assert done.returncode == 2
    assert "train" in done.stderr


def test_explain_prints_every_value_with_its_origin(recipe: Path) -> None:
    done = luthier("explain", "r.yaml", "train.epochs=2", cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert rows["adapt.0.lora.r"] == ["4", "r.yaml:3"]
    assert rows["train.epochs"] == ["2", "command", "line"]
    assert rows["train.lr"][:4] == ["0.0002", "derived", "from", "adapt:"]
    assert rows["train.schedule"][:2] == ["cosine", "default"]


def test_explain_is_not_cut_when_piped(recipe: Path) -> None:
    done = luthier("explain", "r.yaml", cwd=recipe.parent)
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert all(len(row) >= 2 for row in rows)
    assert {"objective.sft.label_smoothing", "validate.keep_best"} <= {row[0] for row in rows}


def test_schema_accepts_the_shipped_recipes() -> None:
    schema = json.loads(luthier("schema").stdout)
    assert schema["required"] == ["model", "data", "output"]
    for path in RECIPES:
        assert set(yaml.safe_load(path.read_text())) <= set(schema["properties"])


def test_version_is_the_packages_own() -> None:
    import luthier as package

    assert luthier("--version").stdout == f"luthier {package.__version__}\n"
    assert luthier("version").stdout.startswith(f"luthier {package.__version__}, python")


def test_a_fault_is_one_message_and_a_traceback_only_on_demand(tmp_path: Path) -> None:
    plain = luthier("explain", str(tmp_path / "none.yaml"))
    assert (plain.returncode, plain.stdout) == (1, "")
    assert plain.stderr.strip() == f"error: {tmp_path / 'none.yaml'}: no such recipe\n  → check the path"
    debug = luthier("explain", str(tmp_path / "none.yaml"), "--debug")
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr


def test_a_reader_that_leaves_is_no_fault() -> None:
    done = subprocess.run(
        f"{sys.executable} -m luthier schema | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_generated_documentation_is_current() -> None:
    from luthier.workflow.docs import filled

    for name in ("recipes.md", "generation.md", "acquire.md", "advice.md"):
        page = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert filled(page) == page, "run `make docs`"
