"""Integer codes: the kernel divided by a scale and rounded, half to even."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jvlm.transforms.groups import per_group
from jvlm.transforms.rounding import divide

_SMALLEST = jnp.finfo(jnp.float32).smallest_normal


@dataclass(frozen=True)
class Integers:
    """Codes of `bits` bits: -8..7 for 4.

    Symmetric: scale = max |w| / 7.5, code = clip(round(w (1 / scale)), -8, 7). Asymmetric: scale = (high - low) / 15
    over a range that holds zero, and an integer `zero` that stands for it. Both as torchao's affine quantization
    defines them (`choose_qparams_affine`, `quantize_affine`).
    """

    bits: int
    symmetric: bool = True

    @property
    def dtype(self) -> Any:
        """Of the stored codes."""
        return jnp.int4 if self.bits == 4 else jnp.int8

    @property
    def low(self) -> int:
        return -(2 ** (self.bits - 1))

    @property
    def high(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def fit(self, blocks: Float[Array, "..."], axis: int) -> tuple[jax.Array, jax.Array | None]:
        """(scale, zero) of each group of split `blocks`; `zero` is None where it is 0 for all."""
        if self.symmetric:
            scale = divide(jnp.abs(blocks).max(axis), (self.high - self.low) / 2)
            return jnp.maximum(scale, _SMALLEST), None
        low, high = jnp.minimum(blocks.min(axis), 0.0), jnp.maximum(blocks.max(axis), 0.0)
        scale = jnp.maximum(divide(high - low, float(self.high - self.low)), _SMALLEST)
        zero = jnp.clip(self.low - jnp.round(low / scale), self.low, self.high)
        return scale, zero.astype(jnp.int8)

    def encode(
        self, blocks: Float[Array, "..."], scale: Float[Array, "..."], zero: Int[Array, "..."] | None, axis: int
    ) -> Int[Array, "..."]:
        """The nearest code of every entry."""
        codes = jnp.round(blocks * per_group(1.0 / scale, axis))
        if zero is not None:
            codes = codes + per_group(zero, axis)
        return jnp.clip(codes, self.low, self.high).astype(self.dtype)

    def decode(self, codes: Int[Array, "..."], zero: Int[Array, "..."] | None, axis: int) -> Float[Array, "..."]:
        """What a code stands for, in units of the scale."""
        if zero is None:
            return codes.astype(jnp.float32)
        return codes.astype(jnp.float32) - per_group(zero, axis).astype(jnp.float32)
