"""The ways to adapt a model, by the `kind` of a configuration's `adapter`: which leaf goes where, what is trained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jvlm.core import build
from jvlm.core.errors import ConfigError
from jvlm.core.tree import matcher, select
from jvlm.transforms.adapter_leaf import Adapter, kernel_of
from jvlm.transforms.bottleneck import Bottleneck
from jvlm.transforms.context import Context
from jvlm.transforms.ia3 import Ia3
from jvlm.transforms.lora import Lora, column_norm

Patterns = Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Method:
    """What every kind has: `targets`, patterns over the paths of kernels and tables (default: the kind's own).

    `train` are patterns of parameters that are trained themselves, such as a new head; `bias` is `none`, `all` or
    `targets` (only of the layers that are targeted). `name` tells adapters of one model apart.
    """

    name: str = "default"
    targets: Patterns | None = None
    train: Patterns = ()
    bias: str = "none"

    TARGETS: ClassVar[Patterns] = ()  # of this kind, when a configuration names none
    MERGES: ClassVar[bool] = True  # whether a plain model can be made of the base and the adapter

    def chosen(self, params: Mapping[str, Any]) -> list[str]:
        """Paths of the kernels in flat `params` that get a leaf. ConfigError for a pattern without a match, and for one
        that matches what is no kernel.
        """
        paths = select(params, self.TARGETS if self.targets is None else self.targets)
        for path in paths:
            if path.rpartition("/")[2] not in ("kernel", "embedding"):
                raise ConfigError(f"adapter target {path!r} is neither a kernel nor an embedding; end its pattern so")
        return paths

    def trained(self, params: Mapping[str, Any]) -> list[str]:
        """Paths in flat `params` that are trained as they are, besides the adapters."""
        patterns = list(self.train)
        if self.bias == "all":
            patterns.append("*bias")
        elif self.bias == "targets":
            patterns += [p for path in self.chosen(params) if (p := path.rpartition("/")[0] + "/bias") in params]
        elif self.bias != "none":
            raise ConfigError(f"adapter.bias {self.bias!r} is unknown; valid names: none, all, targets")
        return select(params, patterns)

    def leaf(self, path: str, base: Any, key: jax.Array) -> Adapter:
        raise NotImplementedError


def names_at(base: Any) -> list[str]:
    """Names of the adapters of one kernel, the innermost first."""
    return [*names_at(base.base), base.name] if isinstance(base, Adapter) else []


def layers_of(path: str) -> int:
    """How many leading layer axes the parameter at `path` has."""
    return f"/{path}".count("/layers/")


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


@dataclass(frozen=True, kw_only=True)
class Ia3Method(Method):
    """(IA)3. `feedforward` are the targets whose inputs are scaled instead of their outputs; the defaults are the
    paper's (arXiv:2205.05638, section 3.3): keys, values, and the input of an MLP's second layer.
    """

    feedforward: Patterns | None = None

    TARGETS = ("*attn/key/kernel", "*attn/value/kernel", "*mlp/down/kernel")

    def leaf(self, path: str, base: Any, key: jax.Array) -> Adapter:
        patterns = self.feedforward if self.feedforward is not None else ("*mlp/down/kernel",)
        inputs = any(matcher(pattern)(path) for pattern in patterns)
        if inputs and path.endswith("embedding"):
            raise ConfigError(f"adapter.feedforward names {path}: a table has no inputs to scale")
        shape = tuple(base.shape)
        size = shape[-2] if inputs else shape[-1]
        return Ia3(base, jnp.ones((*shape[: layers_of(path)], size)), inputs=inputs, name=self.name)

    def chosen(self, params: Mapping[str, Any]) -> list[str]:
        paths = super().chosen(params)
        if self.feedforward:
            select(paths, self.feedforward)
        return paths


@dataclass(frozen=True, kw_only=True)
class BottleneckMethod(Method):
    """Bottleneck adapters of width `rank`; by default after the attention and after the MLP (arXiv:1902.00751)."""

    rank: int = 16
    parallel: bool = False
    scale: int | float = 1.0
    act: str = "gelu"

    TARGETS = ("*attn/out/kernel", "*mlp/down/kernel")
    MERGES = False

    def leaf(self, path: str, base: Any, key: jax.Array) -> Adapter:
        if self.parallel and path.endswith("embedding"):
            raise ConfigError(f"a parallel adapter cannot stand beside the table {path}")
        lead, shape = layers_of(path), tuple(base.shape)
        down = (*shape[:-1], self.rank) if self.parallel else (*shape[:lead], shape[-1], self.rank)
        bound = 1.0 / math.sqrt(math.prod(down[lead:-1]))
        return Bottleneck(
            base,
            jax.random.uniform(key, down, minval=-bound, maxval=bound),
            jnp.zeros((*shape[:lead], self.rank)),
            jnp.zeros((*shape[:lead], self.rank, shape[-1])),
            jnp.zeros((*shape[:lead], shape[-1])),
            scale=float(self.scale),
            parallel=self.parallel,
            act=self.act,
            name=self.name,
        )


@dataclass(frozen=True, kw_only=True)
class BitFitMethod(Method):
    """BitFit (Ben Zaken et al., arXiv:2106.10199): the biases themselves are trained; there is no leaf."""

    TARGETS = ("*/bias",)

    def chosen(self, params: Mapping[str, Any]) -> list[str]:
        return []

    def trained(self, params: Mapping[str, Any]) -> list[str]:
        return select(params, [*(self.TARGETS if self.targets is None else self.targets), *self.train])


@dataclass(frozen=True, kw_only=True)
class ContextMethod(Method):
    """CoOp: `context` learned vectors before every text, or with `classes`, names of classes, as many for each of them
    (arXiv:2109.01134, section 3.2). They start as noise of deviation 0.02, as the paper's do.
    """

    context: int = 16
    classes: Sequence[str] = ()

    TARGETS = ("*token_embed/embedding",)
    MERGES = False

    def leaf(self, path: str, base: Any, key: jax.Array) -> Adapter:
        if not path.endswith("embedding") or self.context < 1:
            raise ConfigError(f"a learned context of {self.context} rows at {path}: give a table, and one row or more")
        count = max(1, len(self.classes)) * self.context
        return Context(base, 0.02 * jax.random.normal(key, (count, base.shape[-1])), name=self.name)


ADAPTERS: dict[str, tuple[type[Method], dict[str, Any]]] = {
    "lora": (LoraMethod, {}),
    "rslora": (LoraMethod, {"rslora": True}),
    "dora": (LoraMethod, {"dora": True}),
    "ia3": (Ia3Method, {}),
    "bottleneck": (BottleneckMethod, {}),
    "bitfit": (BitFitMethod, {}),
    "coop": (ContextMethod, {}),
}
"""Each kind's class, and the fields that its name sets."""


def make_method(fields: Mapping[str, Any]) -> Method:
    """The method of `{"kind": a key of ADAPTERS, **fields}`. ConfigError names what is wrong."""
    fields = dict(fields)
    kind = fields.pop("kind", "?")
    method, preset = build.lookup(ADAPTERS, kind, "adapter kind")
    return build.call(method, preset | fields, f"adapter {kind!r}")
