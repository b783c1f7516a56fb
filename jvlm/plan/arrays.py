"""The largest arrays of a traced step, for the account of one that does not fit."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import jax.numpy as jnp


@dataclass(frozen=True)
class Buffer:
    """An array of a program: bytes on a chip, shape, and the operation that it comes from."""

    bytes: int
    shape: str
    source: str


def largest_arrays(jaxpr: Any, shards: int, count: int = 10) -> tuple[Buffer, ...]:
    """The `count` largest results of operations, each once, as if split over the `shards` of the batch.

    A compiler fuses many of them away; what stays is what a backward pass reads again, such as stacks over the layers.
    """
    found: dict[tuple[str, str], Buffer] = {}
    for equation, parts in _equations(jaxpr, shards):
        for variable in equation.outvars:
            shape, dtype = getattr(variable.aval, "shape", ()), getattr(variable.aval, "dtype", None)
            if dtype is None or not (jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_):
                continue
            text = f"{jnp.dtype(dtype).name}[{','.join(map(str, shape))}]"
            source = f"{equation.source_info.name_stack}/{equation.primitive.name}".lstrip("/")
            size = prod(shape) * jnp.dtype(dtype).itemsize // parts
            if size > found.get((text, source), Buffer(-1, "", "")).bytes:
                found[text, source] = Buffer(size, text, source)
    return tuple(sorted(found.values(), key=lambda buffer: (-buffer.bytes, buffer.source))[:count])


def _equations(jaxpr: Any, parts: int) -> Iterator[tuple[Any, int]]:
    """Every operation, those inside of others too, and into how many parts its arrays are split."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation, parts
        inside = 1 if equation.primitive.name == "shard_map" else parts
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                    yield from _equations(inner, inside)
