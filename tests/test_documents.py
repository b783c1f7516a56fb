"""What the documents claim holds: tables, verbs, commands, paths, the Python example."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jvlm
from jvlm import models
from jvlm.cli.main import VERBS
from jvlm.data.processor import ImageSpec, Processor, TextSpec
from jvlm.data.tokenizers import clip_tokenizer
from jvlm.nn.axes import split
from jvlm.train.config import load_config
from scripts.readme_tables import with_tables
from tests.commands import ROOT, check_command
from tests.models_util import inputs, tiny

README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
PROSE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DECISIONS]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks(README, "sh") for line in block.splitlines()]
    return [line for line in lines if line.strip()]


def test_the_tables_are_those_of_the_dicts() -> None:
    assert with_tables(README) == README, "run python scripts/readme_tables.py"


def test_every_verb_is_shown_and_no_other() -> None:
    shown = {words[1] for words in map(shlex.split, commands()) if words[0] == "jvlm"}
    assert shown == set(VERBS)
    for path in PROSE:
        named = set(re.findall(r"`jvlm ([a-z]+)", path.read_text()))
        assert named <= set(VERBS), path.name


@pytest.mark.parametrize("line", commands())
def test_every_command_in_the_readme_parses(line: str) -> None:
    words = shlex.split(line, comments=True)
    if words[0] == "pip":
        extras = re.findall(r"\[(.*?)\]", line)
        known = PROJECT["project"]["optional-dependencies"]
        assert all(extra in known for group in extras for extra in group.split(","))
        return
    args = check_command(words)
    if words[:2] == ["jvlm", "train"] and args is not None:
        load_config(args.config, args.overrides)


def test_the_demo_s_output_has_its_place() -> None:
    before, inside = README.split("<!-- demo -->")
    assert "make demo" in before
    assert inside.split("<!-- /demo -->")[0].strip()


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = tiny("clip", text=dict(vocab_size=49_408, eos_id=49_407))
    model = models.create(fields)
    variables = jax.jit(model.init)(jax.random.key(0), **inputs(model, batch=1))
    params = split(variables["params"])[0]
    tokenizer = clip_tokenizer()
    processor = Processor(ImageSpec.clip(16), TextSpec(length=8, pad_id=tokenizer.pad_id), tokenizer)
    monkeypatch.chdir(tmp_path)
    jvlm.save(jvlm.Pretrained(model, params, {}, fields, processor, {}), "runs/demo", format="jvlm")
    for name in ("cat", "dog"):
        Image.fromarray(np.full((20, 24, 3), len(name), np.uint8)).save(f"{name}.png")
    (code,) = blocks(README, "python")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert np.shape(names["logits"]) == (2, 2)
    assert (tmp_path / "exported" / "model.safetensors").is_file()


def test_the_layers_are_those_that_are_checked() -> None:
    (shown,) = [block for block in blocks((ROOT / "CONTRIBUTING.md").read_text(), "") if "cli" in block]
    contract = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    assert shown.split("\n")[:-1] == [re.sub(r"[()]", "", layer) for layer in contract]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_paths_that_a_document_names_exist(path: Path) -> None:
    text = path.read_text()
    named = re.findall(r"`((?:jvlm|nn|core|models|transforms|tests|configs|scripts|docs)/[\w/.]*)`", text)
    named += [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "jvlm" / name).exists(), name


def test_decisions_are_numbered_and_short() -> None:
    assert [path.name[:4] for path in DECISIONS] == [f"{n:04}" for n in range(1, len(DECISIONS) + 1)]
    for path in DECISIONS:
        text = path.read_text()
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequence"], path.name
        assert len(text.split()) < 300, path.name
