"""A tiny CLIP directory in transformers' format, pictures beside it, and how to run a verb in this process."""

import json
from pathlib import Path
from typing import Any

import pytest

from jvlm.cli.main import run
from jvlm.interop.hf.directory import save as save_directory
from jvlm.interop.pretrained import Pretrained
from tests.evals import tiny


def write_clip(path: Path) -> Path:
    """The model of `tiny.clip` as a directory; returns `path`."""
    model, variables, processor = tiny.clip()
    save_directory(Pretrained(model, variables["params"], {}, {"family": "clip"}, processor, {}), path)
    return path


def write_pictures(folder: Path, count: int, seed: int = 0) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{at}.png" for at in range(count)]
    for path, data in zip(paths, tiny.pictures(count, seed)):
        path.write_bytes(data)
    return [str(path) for path in paths]


def run_json(capsys: pytest.CaptureFixture[str], verb: str, *argv: str) -> Any:
    """What a verb prints under `--json`; it must succeed, and print one object and nothing else on stdout."""
    capsys.readouterr()
    assert run(verb, [*argv, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def run_error(capsys: pytest.CaptureFixture[str], verb: str, *argv: str) -> tuple[int, str]:
    """(exit status, stderr) of a verb that fails: one line, and nothing on stdout."""
    capsys.readouterr()
    status = run(verb, list(argv))
    said = capsys.readouterr()
    assert status != 0
    assert not said.out
    assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err
    return status, said.err
