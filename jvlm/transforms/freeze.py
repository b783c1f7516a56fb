"""Splits a tree into what is trained and what is frozen, and joins the two again.

Both halves keep the structure of the whole; an array that belongs to the other half is None, which jax and optax take
for an empty subtree. So gradients and optimizer state exist for the trained half only. A weight leaf says itself which
of its arrays are trained: an adapter's own, none of a quantized kernel.
"""

from collections.abc import Sequence
from typing import Any

import jax

from jvlm.core.leaves import Leaf
from jvlm.core.tree import flatten, select, unflatten
from jvlm.core.types import Params


def partition(params: Params, frozen: Sequence[str]) -> tuple[Params, Params]:
    """(trained, frozen) halves of `params`; `frozen` are path patterns.

    Raises ConfigError for a pattern that matches nothing.
    """
    chosen = set(select(flatten(params), frozen)) if frozen else set()

    def halves(path: str, leaf: Any) -> tuple[Any, Any]:
        if isinstance(leaf, Leaf):
            return (None, leaf) if path in chosen else leaf.split()
        return (None, leaf) if path in chosen else (leaf, None)

    both = {path: halves(path, leaf) for path, leaf in flatten(params).items()}
    trained, held = (unflatten({path: pair[half] for path, pair in both.items()}) for half in (0, 1))
    return trained, held


def combine(trained: Any, frozen: Any) -> Any:
    """The whole tree from its two halves."""
    return jax.tree.map(lambda a, b: b if a is None else a, trained, frozen, is_leaf=lambda x: x is None)
