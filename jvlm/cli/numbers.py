"""Types of the command line's numbers: what lies outside of their limits is refused before anything is read."""

import argparse
import math
from collections.abc import Callable


def whole(least: int) -> Callable[[str], int]:
    """An integer of at least `least`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < least:
            raise argparse.ArgumentTypeError(f"{text} does not do; give a whole number of at least {least}")
        return value

    return read


def number(least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf) -> Callable[[str], float]:
    """A finite number from `least` to `most`, and greater than `above`."""
    limits = [
        text
        for text, given in (
            (f"above {above:g}", above > -math.inf),
            (f"of at least {least:g}", least > -math.inf),
            (f"of at most {most:g}", most < math.inf),
        )
        if given
    ]

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most and value > above):
            raise argparse.ArgumentTypeError(f"{text} does not do; give a number {' and '.join(limits)}")
        return value

    return read
