"""Adapters over quantized kernels into quantized kernels: dequantize, merge, quantize again, and say what that did."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jvlm.core.tree import flatten, unflatten
from jvlm.core.types import Params
from jvlm.transforms.adapters import innermost, merge
from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.quantize import quantize


class Change(NamedTuple):
    """What became of a merged kernel M = W + D when it was rounded to M'.

    `update` is |D| / |W|, `error` |M' - M| / |M|, and `kept` the share of the update that M' still has along D,
    <M' - W, D> / |D|^2: 1 is all, 0 means that rounding took the kernel back to where it was. NaN without an update.
    """

    update: float
    error: float
    kept: float


class Requantized(NamedTuple):
    """Parameters without adapters, and the change of every kernel that is quantized in them."""

    params: Params
    changes: dict[str, Change]


def requantize(params: Params) -> Requantized:
    """Merges the adapters of `params` and rounds each kernel again as its base was (scheme, group, double).

    A base without an adapter keeps its codes; what was not quantized is merged and stays dense. Raises UserError for an
    adapter that cannot be merged.
    """
    merged, given = flatten(merge(params)), flatten(params)
    out = dict(merged)
    changes = {}
    for path, leaf in given.items():
        base = innermost(leaf)
        if not isinstance(base, QTensor):
            continue
        if leaf is base:
            out[path] = base
            continue
        again = quantize(merged[path], base.scheme, base.group, base.magnitude is not None, base.axis)
        out[path] = again
        changes[path] = _change(base, merged[path], again)
    return Requantized(unflatten(out), changes)


def _change(base: QTensor, merged: Any, again: QTensor) -> Change:
    old, wanted, new = (x.astype(jnp.float32) for x in (base.dequantize(), merged, again.dequantize()))
    update = wanted - old
    length = float(jnp.square(update).sum())
    kept = float(((new - old) * update).sum()) / length if length else float("nan")
    norm = jnp.linalg.norm
    return Change(update=float(norm(update) / norm(old)), error=float(norm(new - wanted) / norm(wanted)), kept=kept)
