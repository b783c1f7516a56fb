"""What quantization costs and saves: bytes as they are stored, and the error of every layer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from jvlm.core.leaves import Leaf
from jvlm.core.tree import flatten
from jvlm.core.types import Params
from jvlm.transforms.qtensor import QTensor


def stored_bytes(tree: Any) -> float:
    """Bytes of the arrays or shapes of a tree, half a byte for a code of four bits (`.nbytes` counts a whole one)."""
    return sum(x.size * jax.dtypes.itemsize_bits(x.dtype) / 8 for x in jax.tree.leaves(tree))


def bytes_per_parameter(params: Params) -> float:
    """Bytes per parameter of the quantized kernels, scales included; NaN without any. Shapes suffice."""
    found = [leaf for leaf in flatten(params).values() if isinstance(leaf, QTensor)]
    count = sum(int(np.prod(leaf.shape)) for leaf in found)
    return stored_bytes(found) / count if count else float("nan")


def layer_errors(before: Params, after: Params) -> dict[str, Float64[np.ndarray, "L"]]:
    """|W' - W| / |W| (Frobenius) of each layer of each kernel that is quantized in `after`, by path.

    A kernel outside a stack counts as one layer; so do the pixels of a convolution's kernel.
    """
    wanted = flatten(before)
    out = {}
    for path, leaf in flatten(after).items():
        if isinstance(leaf, QTensor):
            stacked = "/layers/" in f"/{path}"
            out[path] = np.asarray(_relative(wanted[path], leaf, stacked), np.float64)
    return out


def _relative(kernel: Any, leaf: QTensor, stacked: bool) -> Float[Array, "L"]:
    wanted = kernel.materialize() if isinstance(kernel, Leaf) else jnp.asarray(kernel)
    return _norms(wanted, leaf, stacked)


def _norms(wanted: jax.Array, leaf: QTensor, stacked: bool) -> jax.Array:
    def norm(x: jax.Array) -> jax.Array:
        rows = x.reshape(x.shape[0] if stacked else 1, -1).astype(jnp.float32)
        return jnp.linalg.norm(rows, axis=1)

    difference = leaf.dequantize().astype(jnp.float32) - wanted.astype(jnp.float32)
    return norm(difference) / jnp.maximum(norm(wanted), jnp.finfo(jnp.float32).tiny)
