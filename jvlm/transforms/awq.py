"""Scaling by activation: inputs that are large get kernels that are finely coded."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.quantize import quantize

STEPS = 20


def awq(
    kernel: Float[Array, "in out"],
    gram: Float[Array, "in in"],
    magnitude: Float[Array, "in"],
    scheme: str,
    group: int,
) -> QTensor:
    """Activation-aware scaling (Lin et al., arXiv:2306.00978, section 3.2).

    Row i is multiplied by s_i = magnitude_i^a before it is rounded and its input divided by it, with the a in 0, 1/20,
    ..., 1 that leaves the smallest error of the output over the calibration inputs, |X (W - W')|^2 = tr(D' gram D).
    a = 0 is plain rounding. The leaf itself divides (`inner`), so that no layer before has to take the scale up.
    """
    exponents = jnp.linspace(0.0, 1.0, STEPS + 1)
    tried = [_scaled(kernel, magnitude, exponent, scheme, group) for exponent in exponents]
    errors = [_error(kernel, leaf, gram) for leaf in tried]
    return tried[int(jnp.argmin(jnp.stack(errors)))]


def _scaled(kernel: jax.Array, magnitude: jax.Array, exponent: jax.Array, scheme: str, group: int) -> QTensor:
    scale = jnp.maximum(magnitude, 1e-4 * magnitude.max() + 1e-30) ** exponent
    scale = scale / jnp.sqrt(scale.max() * scale.min())
    leaf = quantize(kernel.astype(jnp.float32) * scale[:, None], scheme, group)
    return replace(leaf, inner=1.0 / scale, dtype=str(kernel.dtype))


def _error(kernel: jax.Array, leaf: QTensor, gram: jax.Array) -> jax.Array:
    difference = replace(leaf, dtype="float32").dequantize() - kernel
    return (difference * (gram @ difference)).sum()
