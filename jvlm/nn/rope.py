"""Rotary position embeddings, with the scalings that published configurations name."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jvlm.core.build import call, lookup
from jvlm.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Rope:
    """How positions turn queries and keys (Su et al., arXiv:2104.09864). `kind` is a key of `KINDS`.

    `original` is the length the model was first trained at; where it is None, the model's own length. `attention`
    multiplies sine and cosine (None: as YaRN derives it from `factor`, `mscale` and `mscale_all_dim`).
    """

    theta: float = 10_000.0
    kind: str = "default"
    factor: float | None = None
    original: int | None = None
    low_freq: float | None = None
    high_freq: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        lookup(KINDS, self.kind, "rope kind")
        for name in ("factor", *_NEEDED.get(self.kind, ())):
            if self.kind != "default" and getattr(self, name) is None:
                raise ConfigError(f"rope kind {self.kind!r} needs the field {name!r}")


def rope(fields: Mapping[str, Any] | Rope) -> Rope:
    """A `Rope` from plain fields. ConfigError names an unknown one."""
    return fields if isinstance(fields, Rope) else call(Rope, fields, "rope")


def _base(spec: Rope, dim: int) -> np.ndarray:
    return 1.0 / np.float32(spec.theta) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))


def _default(spec: Rope, dim: int, length: int) -> tuple[np.ndarray, float]:
    return _base(spec, dim), 1.0


def _linear(spec: Rope, dim: int, length: int) -> tuple[np.ndarray, float]:
    """Positions divided by `factor` (Chen et al., arXiv:2306.15595)."""
    return _base(spec, dim) / np.float32(spec.factor), 1.0


def _llama3(spec: Rope, dim: int, length: int) -> tuple[np.ndarray, float]:
    """Long waves divided by `factor`, short ones kept, between them a line (Llama 3.1, arXiv:2407.21783)."""
    assert spec.factor is not None and spec.low_freq is not None and spec.high_freq is not None
    base = _base(spec, dim)
    turns = (spec.original or length) * base / (2 * math.pi)
    smooth = np.clip((turns - spec.low_freq) / (spec.high_freq - spec.low_freq), 0, 1).astype(np.float32)
    return (1 - smooth) * base / np.float32(spec.factor) + smooth * base, 1.0


def _yarn(spec: Rope, dim: int, length: int) -> tuple[np.ndarray, float]:
    """YaRN (Peng et al., arXiv:2309.00071, sections 3.2 and 3.4)."""
    assert spec.factor is not None
    original = spec.original or length

    def bound(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(spec.theta))

    low, high = bound(spec.beta_fast or 32.0), bound(spec.beta_slow or 1.0)
    if spec.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high += 0.001 if low == high else 0.0
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    base = _base(spec, dim)
    return base / np.float32(spec.factor) * ramp + base * (1 - ramp), _yarn_attention(spec)


def _yarn_attention(spec: Rope) -> float:
    factor = max(spec.factor or 1.0, 1.0)

    def scale(multiple: float) -> float:
        return 0.1 * multiple * math.log(factor) + 1.0

    if spec.attention is not None:
        return spec.attention
    if spec.mscale and spec.mscale_all_dim:
        return scale(spec.mscale) / scale(spec.mscale_all_dim)
    return scale(1.0)


KINDS: dict[str, Any] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _default,
    "llama3": _llama3,
    "yarn": _yarn,
}
"""Kind to (inverse wavelengths [dim / 2], factor of sine and cosine). `dynamic` grows with the text: see `angles`."""
_NEEDED = {"llama3": ("low_freq", "high_freq")}


def angles(
    spec: Rope, positions: Int[Array, "B T"], dim: int, length: int
) -> tuple[Float[Array, "B T E"], Float[Array, "B T E"]]:
    """Cosine and sine, E = `dim` / 2 each, of every position in float32. `length` is the model's number of positions.

    `dynamic` widens the base of a text that is longer than `length`, by its own highest position (NTK-aware scaling,
    in the form of arXiv:2309.00071, section 3.3).
    """
    inverse, scale = KINDS[spec.kind](spec, dim, length)
    if spec.kind == "dynamic":
        assert spec.factor is not None
        extent = jnp.maximum(positions.max(-1, keepdims=True) + 1, length).astype(jnp.float32)
        theta = spec.theta * (spec.factor * extent / length - (spec.factor - 1)) ** (dim / (dim - 2))
        inverse = 1.0 / theta[..., None] ** (jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)  # [B, 1, E]
    phase = positions[..., None].astype(jnp.float32) * inverse
    return jnp.cos(phase) * scale, jnp.sin(phase) * scale


def rotate(
    x: Float[Array, "B T H D"], turns: tuple[Float[Array, "B T E"], Float[Array, "B T E"]]
) -> Float[Array, "B T H D"]:
    """`x` turned by the angles of its positions; the first half of each head is paired with the second."""
    cos, sin = (part[:, :, None].astype(x.dtype) for part in turns)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def fields(spec: Rope) -> dict[str, Any]:
    """The plain fields of `spec` that differ from their defaults."""
    return {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if getattr(spec, f.name) != f.default}
