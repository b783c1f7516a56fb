"""Quantizes a tree by what its kernels were seen to multiply."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jvlm.core.build import lookup
from jvlm.core.tree import flatten, unflatten
from jvlm.core.types import Params
from jvlm.transforms.awq import awq
from jvlm.transforms.calibrate import Moments
from jvlm.transforms.gptq import gptq
from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.quantize import Quantized, quantize_tree, with_double

METHODS: dict[str, Callable[..., QTensor]] = {"awq": awq, "gptq": gptq}
"""`(kernel [in, out], gram [in, in], magnitude [in], scheme, group)` to a leaf."""


def quantize_calibrated(
    params: Params,
    moments: Mapping[str, Sequence[Moments]],
    method: str,
    patterns: Sequence[str] = ("*kernel",),
    scheme: str = "int4",
    group: int | None = 64,
    double: bool = False,
) -> Quantized:
    """As `quantize_tree`, with the kernels of which `calibrate.collect` knows `moments` rounded by `method`.

    `method` is a key of `METHODS`. Kernels without moments (convolutions, tables, what no batch reached) are rounded
    plainly.
    """
    fit = lookup(METHODS, method, "calibration method")
    plain = quantize_tree(params, patterns, scheme, group, double)
    flat, given = flatten(plain.params), flatten(params)
    for path, layers in moments.items():
        if isinstance(flat[path], QTensor):
            flat[path] = _layers(given[path], layers, fit, scheme, flat[path].group, double)
    return Quantized(unflatten(flat), plain.left)


def _layers(kernel: Any, layers: Sequence[Moments], fit: Any, scheme: str, group: int, double: bool) -> QTensor:
    def one(kernel: jax.Array, seen: Moments) -> QTensor:
        gram, magnitude = (jnp.asarray(x / seen.count) for x in (seen.gram, seen.magnitude))
        leaf = fit(kernel, gram, magnitude, scheme, group)
        return with_double(leaf) if double else leaf

    if kernel.ndim == 2:
        return one(kernel, layers[0])
    return jax.tree.map(lambda *xs: jnp.stack(xs), *(one(k, seen) for k, seen in zip(kernel, layers, strict=True)))
