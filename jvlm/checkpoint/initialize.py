"""Starting from somebody else's parameters: the same leaves copied, positions resized, new heads left fresh."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jvlm.checkpoint.leaves import name_leaves
from jvlm.checkpoint.positions import resize_table
from jvlm.core.errors import UserError, nearest
from jvlm.core.tree import matcher
from jvlm.core.types import Params


class Positions(NamedTuple):
    """How the position tables [1, N, D] whose paths match `pattern` are brought to another length."""

    pattern: str = "*pos_embed"
    prefix: int | None = None
    """Class and register tokens before the grid; None: what exceeds the largest square."""
    grid: tuple[int, int] | None = None
    """Rows and columns in the source; None: square."""
    new_grid: tuple[int, int] | None = None
    """Rows and columns in the target; None: square."""
    method: str = "bicubic"


class Initialized(NamedTuple):
    """Parameters to start from, and where each came from. Paths are in tree order."""

    params: Params
    copied: list[str]
    resized: list[str]
    fresh: list[str]
    """Not in the source: these are what the target held, usually a new head."""
    unused: list[str]
    """In the source and not in the target."""

    def __str__(self) -> str:
        lines = [f"{len(self.copied)} leaves copied"]
        for what in ("resized", "fresh", "unused"):
            if names := getattr(self, what):
                lines.append(f"{len(names)} {what}: {', '.join(names)}")
        return "; ".join(lines)


def initialize_from(
    target: Params, source: Mapping[str, Any], *, positions: Sequence[Positions] = (Positions(),)
) -> Initialized:
    """Fills `target` with the leaves of `source` that have the same path.

    Args:
      target: the model's own parameters, freshly initialized. A leaf may be a `jax.ShapeDtypeStruct` with a
      sharding
        where the value is sure to come from the source; a missing one then stays abstract, and is named.
      source: the parameters to start from, arrays or numpy arrays.
      positions: rules for position tables of another length, the first that matches a path counts.

    Every leaf takes the target's sharding and dtype (between floating types; a bfloat16 source is widened
    exactly). Raises UserError, naming the leaf, where shapes differ otherwise, where integers and floats
    meet, and when source and target have no path in common.
    """
    wanted, given = name_leaves(target), name_leaves(source)
    rules = [(matcher(rule.pattern), rule) for rule in positions]
    copied, resized, fresh, leaves = [], [], [], []
    for name, leaf in wanted.items():
        if name not in given:
            fresh.append(name)
            leaves.append(leaf)
            continue
        value = given[name]
        if value.shape == leaf.shape:
            copied.append(name)
        else:
            rule = next((rule for matches, rule in rules if matches(name)), None)
            value = _resize(name, value, leaf.shape, rule)
            resized.append(name)
        leaves.append(_place(name, value, leaf))
    if not copied and not resized:
        example = next(iter(wanted), "")
        raise UserError(f"nothing to start from: the source has no leaf {example}; {nearest(example, given, 3)}")
    params = jax.tree.unflatten(jax.tree.structure(target), leaves)
    return Initialized(params, copied, resized, fresh, [name for name in given if name not in wanted])


def _resize(name: str, value: Any, shape: tuple[int, ...], rule: Positions | None) -> jax.Array:
    tables = len(shape) == value.ndim == 3 and shape[0] == value.shape[0] == 1 and shape[2] == value.shape[2]
    if rule is None or not tables:
        raise UserError(
            f"leaf {name}: the source has shape {list(value.shape)}, the model {list(shape)}; "
            "change the model's configuration, or rename the leaf in it if it is meant to be new"
        )
    try:
        return resize_table(
            jnp.asarray(value),
            shape[1],
            prefix=rule.prefix,
            grid=rule.grid,
            new_grid=rule.new_grid,
            method=rule.method,
        )
    except UserError as error:
        raise UserError(f"leaf {name}: {error}") from error


def _place(name: str, value: Any, leaf: Any) -> jax.Array:
    floats = [jnp.issubdtype(dtype, jnp.floating) for dtype in (value.dtype, leaf.dtype)]
    if value.dtype != leaf.dtype and not all(floats):
        raise UserError(f"leaf {name}: the source is {value.dtype}, the model {leaf.dtype}; they are not converted")
    return jax.device_put(value.astype(leaf.dtype), leaf.sharding)
