"""Kernels to few bits: one of them, or those of a tree that path patterns name."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jvlm.core.build import lookup
from jvlm.core.errors import ConfigError
from jvlm.core.leaves import Leaf
from jvlm.core.tree import flatten, map_paths, select, unflatten
from jvlm.core.types import Params
from jvlm.transforms import double_quantization
from jvlm.transforms.groups import join_groups, split_groups
from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.schemes import SCHEMES

AXES = {"kernel": -2, "embedding": -1}
"""The contraction axis by the name of a parameter; no other parameter is a product's kernel."""


def quantize(
    kernel: Float[Array, "*L rows cols"],
    scheme: str = "nf4",
    group: int | None = 64,
    double: bool = False,
    axis: int = -2,
) -> QTensor:
    """A leaf that stands for `kernel` [*L, in, out], or with `axis` -1 for a table [V, D].

    `scheme` is a key of `SCHEMES`; `group` entries along `axis` share a scale, all of them with None. `double` writes
    the scales themselves in eight bits. Layers in front are quantized each by itself. Computed in float32, traceable.
    Raises ConfigError for an unknown scheme and for an extent that is no multiple of `group`.
    """
    lookup(SCHEMES, scheme, "quantization scheme")
    extent = kernel.shape[axis]
    group = extent if group is None else group
    if group < 1 or extent % group:
        raise ConfigError(f"a kernel of shape {list(kernel.shape)} does not divide into groups of {group} along {axis}")
    return _quantize(kernel, scheme, group, double, axis)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _quantize(kernel: jax.Array, scheme: str, group: int, double: bool, axis: int) -> QTensor:
    blocks = split_groups(kernel.astype(jnp.float32), axis, group)
    scale, zero = SCHEMES[scheme].fit(blocks, axis)
    codes = join_groups(SCHEMES[scheme].encode(blocks, scale, zero, axis), axis)
    leaf = QTensor(codes, scale, zero, scheme=scheme, axis=axis, group=group, dtype=str(kernel.dtype))
    return with_double(leaf) if double else leaf


def with_double(leaf: QTensor) -> QTensor:
    """The same codes with their scales quantized once more."""
    scale, magnitude, offset = double_quantization.compress(leaf.scale, leaf.axis)
    return replace(leaf, scale=scale, magnitude=magnitude, offset=offset)


class Quantized(NamedTuple):
    """A tree with leaves in few bits, and why the others that the patterns name are not: `{path: reason}`."""

    params: Params
    left: dict[str, str]


def quantize_tree(
    params: Params,
    patterns: Sequence[str] = ("*kernel",),
    scheme: str = "nf4",
    group: int | None = 64,
    double: bool = False,
) -> Quantized:
    """Quantizes the kernels and embedding tables of `params` whose paths match `patterns`.

    What does not divide into groups stays as it is and is reported, as does what another leaf stands for. Raises
    ConfigError for a pattern that matches none of them, naming the nearest paths, and for an unknown scheme.
    """
    lookup(SCHEMES, scheme, "quantization scheme")
    flat = flatten(params)
    left: dict[str, str] = {}
    for path in select(quantizable(flat), patterns):
        leaf = flat[path]
        if reason := obstacle(path, leaf, group):
            left[path] = reason
        else:
            flat[path] = quantize(leaf, scheme, group, double, axis_of(path))
    return Quantized(unflatten(flat), left)


def dequantize_tree(params: Params) -> Params:
    """`params` with a plain array for every quantized leaf."""
    return map_paths(lambda _, leaf: leaf.dequantize() if isinstance(leaf, QTensor) else leaf, params)


def quantizable(flat: Params) -> list[str]:
    """Paths of a flat tree that hold kernels or embedding tables."""
    return [path for path, leaf in flat.items() if _name(path) in AXES and len(leaf.shape) >= 2]


def axis_of(path: str) -> int:
    """The contraction axis of the parameter at `path`."""
    return AXES[_name(path)]


def obstacle(path: str, leaf: Any, group: int | None) -> str | None:
    """Why the leaf at `path` cannot be quantized in groups of `group`, or None."""
    if isinstance(leaf, Leaf):
        return f"a {type(leaf).__name__} already"
    extent = leaf.shape[axis_of(path)]
    if group is not None and extent % group:
        return f"its {extent} inputs are no multiple of {group}"
    return None


def _name(path: str) -> str:
    return path.rpartition("/")[2]
