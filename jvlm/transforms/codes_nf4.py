"""NF4: the sixteen quantiles of a normal distribution as codes of four bits."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jvlm.transforms.groups import per_group
from jvlm.transforms.look_up import look_up

TABLE = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
"""NormalFloat of 4 bits (arXiv:2305.14314, appendix E); the values of bitsandbytes."""
_BOUNDS = (TABLE[:-1] + TABLE[1:]) / 2


@dataclass(frozen=True)
class NormalFloat4:
    """Codes -8..7 for the entries 0..15 of `TABLE` times the largest magnitude of the group.

    They are stored eight lower than published because checkpoints hold signed integers of four bits only. Halfway
    between two entries the lower one is taken, as bitsandbytes does.
    """

    bits: int = 4

    @property
    def dtype(self) -> Any:
        """Of the stored codes."""
        return jnp.int4

    def fit(self, blocks: Float[Array, "..."], axis: int) -> tuple[jax.Array, None]:
        """(scale, None) of each group of split `blocks`."""
        return jnp.abs(blocks).max(axis), None

    def encode(
        self, blocks: Float[Array, "..."], scale: Float[Array, "..."], zero: None, axis: int
    ) -> Int[Array, "..."]:
        """The nearest code of every entry."""
        inverse = jnp.where(scale > 0, 1.0 / scale, 0.0)
        x = blocks * per_group(inverse, axis)
        codes = jnp.full(x.shape, -8, jnp.int8)
        for bound in _BOUNDS:
            codes += x > bound
        return codes.astype(self.dtype)

    def decode(self, codes: Int[Array, "..."], zero: None, axis: int, dtype: Any = jnp.float32) -> Float[Array, "..."]:
        """What a code stands for, in units of the scale."""
        return look_up(TABLE, codes.astype(jnp.int32) + 8)
