"""Arithmetic rounded operation by operation, where a definition asks for it: XLA fuses and rewrites otherwise."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def divide(x: Float[Array, "..."], constant: float) -> Float[Array, "..."]:
    """`x / constant`; of a constant that it knows XLA would multiply by the reciprocal."""
    return x / jnp.where(jnp.isnan(x), x, constant)


def multiply_add(x: Float[Array, "..."], y: Float[Array, "..."], z: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x y + z` in float32 with the product rounded, which a fused multiply-add does not do."""
    never = jnp.isnan(z).astype(jnp.uint32)
    product = jax.lax.bitcast_convert_type(x * y, jnp.uint32) ^ never
    return jax.lax.bitcast_convert_type(product, jnp.float32) + z
