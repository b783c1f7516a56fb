"""Activation functions under the names that published configurations use."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jvlm.core.build import lookup
from jvlm.nn.reductions import opaque


def _written_out(fn: Callable[[jax.Array], jax.Array], slope: Callable[[jax.Array], jax.Array]) -> Any:
    """`fn` whose gradient is `slope(x)` times the cotangent, computed once (see `nn/reductions.py`).

    `x` is kept as it was computed: fused again with what produced it, it would round differently when recomputed.
    """
    with_slope = jax.custom_vjp(fn)
    with_slope.defvjp(lambda x: (fn(x), opaque(x)), lambda x, cotangent: (opaque(cotangent * slope(x)),))
    return with_slope


def _gelu(x: jax.Array) -> jax.Array:
    # By erf and in float32 as torch computes it; jax.nn.gelu's erfc takes a CPU three times as long.
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jax.lax.erf(wide / math.sqrt(2)))).astype(x.dtype)


def _gelu_slope(x: jax.Array) -> jax.Array:
    density = jnp.exp(-0.5 * jnp.square(x)) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + jax.lax.erf(x / math.sqrt(2))) + x * density


def _gelu_tanh_slope(x: jax.Array) -> jax.Array:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    t = jnp.tanh(inner)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * jnp.square(x))


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


def _quick_gelu_slope(x: jax.Array) -> jax.Array:
    s = jax.nn.sigmoid(1.702 * x)
    return s + 1.702 * x * s * (1 - s)


gelu = _written_out(_gelu, _gelu_slope)
gelu_tanh = _written_out(lambda x: jax.nn.gelu(x, approximate=True), _gelu_tanh_slope)
quick_gelu = _written_out(_quick_gelu, _quick_gelu_slope)
"""`x * sigmoid(1.702 x)`, the approximation that OpenAI's CLIP was trained with."""


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The function called `name`; ConfigError with the nearest name otherwise."""
    return lookup(ACTIVATIONS, name, "activation")
