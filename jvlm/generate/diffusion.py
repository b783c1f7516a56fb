"""Pictures out of noise: one scanned loop that runs any sampler's plan, and what is put around the model for it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jvlm.core.types import Leaf
from jvlm.generate.steps import Plan

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]
"""`(x [B, H, W, C], time [B])` to the model's prediction, shaped as x."""


def initial_noise(
    seed: int | Int[Array, ""], indices: Int[Array, "B"], shape: tuple[int, ...]
) -> Float[Array, "B ..."]:
    """Standard normal noise of pictures `indices`, each of its own key: the same bits in any batch and on any mesh."""
    key = jax.random.key(seed)
    return jax.vmap(lambda index: jax.random.normal(jax.random.fold_in(key, index), shape))(indices)


def picture_keys(seed: int | Int[Array, ""], indices: Int[Array, "B"]) -> jax.Array:
    """Keys [B] of the noise that stochastic samplers add to pictures `indices`."""
    key = jax.random.fold_in(jax.random.key(seed), 1)
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)


def guided(
    model: Callable[..., jax.Array],
    conditions: Mapping[str, Leaf],
    without: Mapping[str, Leaf] | None,
    guidance: Any,
    rescale: Any = 0.0,
) -> Denoiser:
    """`model(x, times, **conditions)` with classifier-free guidance (Ho and Salimans, arXiv:2207.12598, eq. 6).

    Both predictions come from one call of twice the batch: `without`, then `conditions`, arrays [B, ...] of the same
    names. None for `without` calls the model alone. `rescale` is the share taken from a prediction whose deviation is
    the conditional one's (Lin et al., arXiv:2305.08891, eq. 15 and 16).
    """
    if without is None:
        return lambda x, times: model(x, times, **conditions)
    both = {name: jnp.concatenate([without[name], value]) for name, value in conditions.items()}

    def denoise(x: jax.Array, times: jax.Array) -> jax.Array:
        out = model(jnp.concatenate([x, x]), jnp.concatenate([times, times]), **both)
        plain, told = jnp.split(out, 2)
        mixed = plain + guidance * (told - plain)
        axes = tuple(range(1, x.ndim))
        ratio = told.std(axes, keepdims=True) / jnp.maximum(mixed.std(axes, keepdims=True), 1e-12)
        return mixed * (1 + rescale * (ratio - 1))

    return denoise


def run(
    plan: Plan,
    denoise: Denoiser,
    x: Float[Array, "B ..."],
    *,
    keys: Any = None,
    noises: Float[Array, "S B ..."] | None = None,
    known: Any = None,
) -> Float[Array, "B ..."]:
    """Carries out `plan` on `x` [B, ...], scaled as its first row takes it; one compiled body for all rows.

    A stochastic plan draws from `keys` [B], one a picture, or adds `noises` [S, B, ...]. `known` is (picture, noise,
    mask), each broadcastable to x: where the mask is 0 the picture is kept, noised to each level in turn.
    """
    rows = (plan.times, plan.scale, plan.convert, plan.slot, plan.current, plan.following, plan.hold)
    drawn = keys if noises is None else None
    slots = jnp.zeros((plan.slots, *x.shape), x.dtype)

    def noise_of(index: jax.Array, given: Any) -> Any:
        if given is not None:
            return given
        if drawn is None:
            return jnp.zeros((), x.dtype)
        return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), x.shape[1:]))(drawn)

    def step(carry: tuple[Any, ...], item: tuple[Any, ...]) -> tuple[tuple[Any, ...], None]:
        x, anchor, slots = carry
        (time, scale, convert, slot, current, following, hold), level, index, given = item
        out = denoise(scale * x, jnp.full(x.shape[:1], time))
        said = jnp.clip(convert[0] * x + convert[1] * out, -plan.clip, plan.clip)
        slots = slots.at[slot].set(said)
        y = current[0] * x + current[1] * anchor + jnp.tensordot(current[2:], slots, 1)
        x = following[0] * y + following[1] * anchor + following[2] * out + following[3] * noise_of(index, given)
        x = x + jnp.tensordot(following[4:], slots, 1)
        if known is not None:
            picture, noise, mask = known
            x = mask * x + (1 - mask) * (level[0] * picture + level[1] * noise)
        return (x, jnp.where(hold, y, anchor), slots), None

    count = plan.times.shape[0]
    items = (rows, plan.levels[1:], jnp.arange(count), noises)
    return jax.lax.scan(step, (x, x, slots), items)[0][0]


def start(plan: Plan, noise: Float[Array, "B ..."], picture: Float[Array, "B ..."] | None = None) -> jax.Array:
    """What `run` begins with: noise alone, or a `picture` noised to the plan's first level."""
    if picture is None:
        return plan.start * noise
    return plan.levels[0, 0] * picture + plan.levels[0, 1] * noise
