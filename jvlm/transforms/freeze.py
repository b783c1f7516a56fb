"""Splits a tree into what is trained and what is frozen, and joins the two again.

Both halves keep the structure of the whole; a leaf that belongs to the other half is None, which jax and optax take
for an empty subtree. So gradients and optimizer state exist for the trained half only.
"""

from collections.abc import Sequence
from typing import Any

import jax

from jvlm.core.tree import flatten, map_paths, select
from jvlm.core.types import Params


def partition(params: Params, frozen: Sequence[str]) -> tuple[Params, Params]:
    """(trained, frozen) halves of `params`; `frozen` are path patterns.

    Raises ConfigError for a pattern that matches nothing.
    """
    chosen = set(select(flatten(params), frozen)) if frozen else set()
    trained = map_paths(lambda path, leaf: None if path in chosen else leaf, params)
    return trained, map_paths(lambda path, leaf: leaf if path in chosen else None, params)


def combine(trained: Any, frozen: Any) -> Any:
    """The whole tree from its two halves."""
    return jax.tree.map(lambda a, b: b if a is None else a, trained, frozen, is_leaf=lambda x: x is None)
