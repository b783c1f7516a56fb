"""Runs a notebook from top to bottom in this process: at other parameters, and without its installation."""

import json
import shlex
from typing import Any

from jvlm.cli.main import main
from tests.commands import ROOT

FOLDER = ROOT / "notebooks"


def cells(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]


def command(line: str, names: dict[str, Any]) -> None:
    """What `!jvlm ...` does in a notebook, which fills in the names between braces."""
    words = shlex.split(line.format(**names))
    assert words[0] == "jvlm"
    assert main(words[1:]) == 0, line


def execute(name: str, **parameters: Any) -> dict[str, Any]:
    """The names that the notebook leaves; it writes into the working directory."""
    names: dict[str, Any] = {}
    names["command"] = lambda line: command(line, names)
    for number, cell in enumerate(cells(name)):
        if cell["cell_type"] != "code":
            continue
        lines = [line for line in "".join(cell["source"]).splitlines() if not line.startswith("%pip")]
        lines = [f"command({line[1:]!r})" if line.startswith("!") else line for line in lines]
        exec(compile("\n".join(lines), f"{name}, cell {number}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert set(parameters) <= set(names), "a parameter that the notebook does not have"
            names |= parameters
    return names
