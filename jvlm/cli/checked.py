"""How `jvlm data check` says what it found, whatever the data are."""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any


def report(args: argparse.Namespace, result: Mapping[str, Any], lines: Iterable[str]) -> int:
    """Prints `result` as one JSON object or as `lines`; exit status 1 for too many bad samples or a cut shard."""
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join(lines))
    fraction = sum(result["bad"].values()) / result["samples"]
    if fraction > args.max_bad:
        print(f"{fraction:.1%} of the samples are bad, more than {args.max_bad:.1%}", file=sys.stderr)
        return 1
    if cut := result["bad"].get("truncated tar"):
        print(f"{cut} truncated tar: what lay behind the cut is not counted; copy it again", file=sys.stderr)
        return 1
    return 0


def span(values: Mapping[str, float]) -> str:
    """Smallest, largest and median."""
    return f"{values['min']:g} to {values['max']:g}, median {values['median']:g}"
