"""The type checker of `--jaxtyping-packages`: beartype, with an int where a float is asked for, as PEP 484 has it."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

MOST = 4
"""How often a function that is made within another one is checked: to set up a check takes a millisecond each time."""
_beartyped: Callable[[Any], Any] = beartype(conf=BeartypeConf(is_pep484_tower=True))
_made: Counter[tuple[str, str]] = Counter()


def checked(function: Any) -> Any:
    """`function`, checking its arguments and result."""
    name = (function.__module__, function.__qualname__)
    _made[name] += 1
    if "<locals>" in function.__qualname__ and _made[name] > MOST:
        return function
    return _beartyped(function)
