"""Checks a command line that a document shows, without running it."""

import argparse
import importlib
import re
from collections.abc import Sequence
from pathlib import Path

from jvlm.cli.main import MODULES, VERBS, Parser, parse

ROOT = Path(__file__).resolve().parents[1]


def check_command(words: Sequence[str]) -> argparse.Namespace | None:
    """Fails unless `jvlm VERB ...` parses with nothing left over, or `make TARGET` names a target."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), f"no such target: {words}"
        return None
    assert words[0] == "jvlm", f"not a command of ours: {words}"
    assert words[1] in VERBS, f"no such verb: {words}"
    module = importlib.import_module(f"jvlm.cli.{MODULES.get(words[1], words[1])}")
    parser = Parser(prog=f"jvlm {words[1]}", allow_abbrev=False)
    module.add_arguments(parser)
    return parse(parser, words[2:])
