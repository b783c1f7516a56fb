"""The notebooks are fit for Colab, and run: those that ask and paint beside the tests of these verbs.

The two that train are not run here, where compiling their steps takes a minute; every command of theirs is parsed.
"""

import ast
import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jvlm.train.config import load_config
from tests.commands import ROOT, check_command
from tests.conftest import CACHE
from tests.notebook_cells import FOLDER, cells, execute
from tests.plan.slices import needs_libtpu

NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
TOY = """
from tests.train.cases import toy_config


def get_config():
    return toy_config()
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(CACHE))
    Path("toy.py").write_text(TOY)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_ready_for_colab_and_has_no_outputs(name: str) -> None:
    found = cells(name)
    code = [cell for cell in found if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert [cell for cell in code if "parameters" in cell["metadata"].get("tags", ())] == code[:1]
    (install,) = re.findall(r'^%pip install -q "jvlm(?:\[(\w+)\])? @ \{SOURCE\}"$', "".join(code[1]["source"]))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert not install or install in extras
    assert found[0]["cell_type"] == "markdown" and found[0]["source"][0].startswith("# ")
    assert f"notebooks/{name}.ipynb" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_no_logic_of_its_own(name: str) -> None:
    for cell in cells(name):
        if cell["cell_type"] == "code":
            lines = [line for line in "".join(cell["source"]).splitlines() if line[:1] not in ("%", "!")]
            tree = ast.parse("\n".join(lines))
            assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_a_notebook_parses(name: str) -> None:
    code = ["".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "code"]
    names: dict[str, Any] = {"DIRECTORY": "model"}
    exec(code[0], names)
    for line in "\n".join(code).splitlines():
        if line.startswith("!"):
            args = check_command(shlex.split(line[1:].format(**names)))
            if args is not None and hasattr(args, "config"):
                load_config(args.config, args.overrides)


@needs_libtpu
def test_a_pod_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(SVG=drawn.append))
    names = execute("plan_a_pod", CONFIG="toy.py", TOPOLOGY="v5e:1x1", BATCH=32)
    assert names["found"].fits and names["hours"] > 0
    assert len(drawn) == 1 and "<svg" in drawn[0]
