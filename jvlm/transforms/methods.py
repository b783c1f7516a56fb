"""The ways to adapt a model, by the `kind` of a configuration's `adapter`: which leaf goes where, what is trained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jvlm.core import build
from jvlm.core.errors import ConfigError
from jvlm.core.tree import matcher, select
from jvlm.transforms.adapter_leaf import Adapter
from jvlm.transforms.adapter_method import Method, Patterns, layers_of
from jvlm.transforms.bottleneck import Bottleneck
from jvlm.transforms.context import Context
from jvlm.transforms.ia3 import Ia3
from jvlm.transforms.lora_method import LoraMethod
from jvlm.transforms.prompt_methods import PrefixMethod, PromptMethod, WordsMethod


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

    def leaf(self, path: str, base: Any, key: jax.Array) -> Any:
        return base

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
    "prefix": (PrefixMethod, {}),
    "prompt": (PromptMethod, {}),
    "textual_inversion": (WordsMethod, {}),
}
"""Each kind's class, and the fields that its name sets."""


def make_method(fields: Mapping[str, Any]) -> Method:
    """The method of `{"kind": a key of ADAPTERS, **fields}`. ConfigError names what is wrong."""
    fields = dict(fields)
    kind = fields.pop("kind", "?")
    method, preset = build.lookup(ADAPTERS, kind, "adapter kind")
    return build.call(method, preset | fields, f"adapter {kind!r}")
