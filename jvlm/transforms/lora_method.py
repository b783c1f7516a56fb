"""LoRA, rsLoRA and DoRA by their configuration: ranks, scales and first factors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from jvlm.core.errors import ConfigError
from jvlm.core.tree import matcher, select
from jvlm.transforms.adapter_leaf import Adapter, kernel_of
from jvlm.transforms.adapter_method import Method, layers_of
from jvlm.transforms.lora import Lora, column_norm


@dataclass(frozen=True, kw_only=True)
class LoraMethod(Method):
    """LoRA and its kin. `rank_pattern` and `alpha_pattern` map path patterns to a number, or to one a layer of a
    stack; `layers` keeps the adapter to these layers of every stack. The default targets are the paper's
    (arXiv:2106.09685, section 4.2): query and value of every attention.
    """

    rank: int = 8
    alpha: int | float = 16
    dropout: int | float = 0.0
    rslora: bool = False
    dora: bool = False
    rank_pattern: Mapping[str, Any] = field(default_factory=dict)
    alpha_pattern: Mapping[str, Any] = field(default_factory=dict)
    layers: Sequence[int] | None = None

    TARGETS = ("*attn/query/kernel", "*attn/value/kernel")

    def leaf(self, path: str, base: Any, key: jax.Array) -> Adapter:
        lead, shape = layers_of(path), tuple(base.shape)
        depth = shape[0] if lead else 1
        ranks = self._each(path, self.rank_pattern, self.rank, depth, "rank_pattern")
        alphas = self._each(path, self.alpha_pattern, self.alpha, depth, "alpha_pattern")
        if self.layers is not None and lead:
            if outside := [index for index in self.layers if not 0 <= index < depth]:
                raise ConfigError(f"adapter.layers names layer {outside[0]}, but {path} has {depth}")
            ranks = [rank if index in self.layers else 0 for index, rank in enumerate(ranks)]
        if min(ranks) < 0 or max(ranks) == 0:
            raise ConfigError(f"adapter rank {ranks[0] if depth == 1 else ranks} of {path}; give a positive one")
        table = path.endswith("embedding")
        a, b = lora_factors(shape, lead, max(ranks), table, key)
        if lead:
            # Columns of a and rows of b beyond a layer's rank stay zero: their gradients are.
            kept = jnp.arange(max(ranks)) < jnp.asarray(ranks)[:, None]  # [L, r]
            a = a * kept.reshape(depth, *(1,) * (a.ndim - 2), -1)
            b = b * kept[:, :, None]
        scales = [lora_scale(rank, alpha, self.rslora) for rank, alpha in zip(ranks, alphas)]
        scale = jnp.asarray(scales if lead else scales[0], jnp.float32)
        leaf = Lora(
            base,
            a,
            b,
            scale,
            name=self.name,
            dropout=float(self.dropout),
            ranks=tuple(ranks),
            alphas=tuple(map(float, alphas)),
            rslora=self.rslora,
        )
        if not self.dora:
            return leaf
        return leaf.replace(magnitude=column_norm(kernel_of(base).astype(jnp.float32) + leaf._update(), lead))

    def _each(self, path: str, pattern: Mapping[str, Any], default: Any, depth: int, what: str) -> list[Any]:
        value = next((value for p, value in pattern.items() if matcher(p)(path)), default)
        values = list(value) if isinstance(value, Sequence) else [value] * depth
        if len(values) != depth:
            raise ConfigError(f"adapter.{what} gives {len(values)} values for {path}, which has {depth} layers")
        return values

    def chosen(self, params: Mapping[str, Any]) -> list[str]:
        paths = super().chosen(params)
        for pattern in (*self.rank_pattern, *self.alpha_pattern):
            select(paths, [pattern])
        return paths


def lora_scale(rank: int, alpha: int | float, rslora: bool) -> float:
    """What LoRA multiplies its product by."""
    return 0.0 if rank == 0 else alpha / (math.sqrt(rank) if rslora else rank)


def lora_factors(
    shape: tuple[int, ...], lead: int, rank: int, table: bool, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A kernel's factors (a, b), one of which is zero: a is uniform in +-1 / sqrt(inputs), for a table b is normal."""
    shape_a, shape_b = (*shape[:-1], rank), (*shape[:lead], rank, shape[-1])
    if table:
        return jnp.zeros(shape_a), jax.random.normal(key, shape_b)
    bound = 1.0 / math.sqrt(math.prod(shape[lead:-1]))
    return jax.random.uniform(key, shape_a, minval=-bound, maxval=bound), jnp.zeros(shape_b)
