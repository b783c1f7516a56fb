"""Prefix and prompt tuning and learned words, by their configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jvlm.core import leaves
from jvlm.core.errors import ConfigError
from jvlm.transforms.adapter_leaf import kernel_of
from jvlm.transforms.adapter_method import Method, layers_of
from jvlm.transforms.context import Context
from jvlm.transforms.prefix import Prefix


@dataclass(frozen=True, kw_only=True)
class PrefixMethod(Method):
    """Prefix tuning: `length` learned keys and values in every layer (arXiv:2101.00190), normal with deviation 0.02."""

    length: int = 16

    TARGETS = ("*attn/key/kernel", "*attn/value/kernel")
    MERGES = False

    def leaf(self, path: str, base: Any, key: jax.Array) -> Any:
        shape = tuple(base.shape)
        rows = (*shape[: layers_of(path)], self.length, shape[-1])
        return Prefix(base, 0.02 * jax.random.normal(key, rows), name=self.name)

    def chosen(self, params: Mapping[str, Any]) -> list[str]:
        if self.length < 1:
            raise ConfigError(f"adapter.length = {self.length}; learn one row or more")
        paths = super().chosen(params)
        for path in paths:
            layer, _, last = path.removesuffix("/kernel").rpartition("/")
            other = {"key": "value", "value": "key"}.get(last)
            if other is None or f"{layer}/{other}/kernel" not in paths:
                raise ConfigError(f"a prefix at {path}: give the keys and the values of an attention, both")
        return paths


@dataclass(frozen=True, kw_only=True)
class PromptMethod(Method):
    """Prompt tuning: `length` learned vectors before every text of a language model, which start as those of random
    words (arXiv:2104.08691, section 3.2).
    """

    length: int = 16

    TARGETS = ("*token_embed/embedding",)
    MERGES = False

    def leaf(self, path: str, base: Any, key: jax.Array) -> Any:
        if not path.endswith("embedding") or self.length < 1:
            raise ConfigError(f"a prompt of {self.length} rows at {path}: give a table, and one row or more")
        words = jax.random.randint(key, (self.length,), 0, base.shape[0])
        return Context(base, leaves.take(base, words, "float32"), name=self.name)


@dataclass(frozen=True, kw_only=True)
class WordsMethod(Method):
    """Textual inversion: new words, of which the vectors alone are trained (Gal et al., arXiv:2208.01618, section 4).

    Each of the words `tokens` has so many `vectors`, which start as those of the words of `init`, over and over (a run
    looks up their ids, `start`), or, without, normal with the table's own deviation.
    """

    tokens: Sequence[str] = ()
    init: str = ""
    vectors: int = 1
    start: Sequence[int] = ()

    TARGETS = ("*token_embed/embedding",)
    MERGES = False

    def leaf(self, path: str, base: Any, key: jax.Array) -> Any:
        if not path.endswith("embedding"):
            raise ConfigError(f"adapter 'textual_inversion' at {path}: words are rows of a table of tokens")
        if self.start:
            each = [self.start[index % len(self.start)] for index in range(self.vectors)]
            rows = leaves.take(base, jnp.asarray(each * len(self.tokens)), "float32")
        else:
            table = kernel_of(base).astype(jnp.float32)
            rows = table.std() * jax.random.normal(key, (len(self.tokens) * self.vectors, base.shape[-1]))
        return Context(base, rows, name=self.name)

    def chosen(self, params: Mapping[str, Any]) -> list[str]:
        if not self.tokens or self.vectors < 1:
            raise ConfigError("adapter 'textual_inversion' needs `tokens`, new words, and one vector or more for each")
        for word in self.tokens:
            if word.split() != [word] or list(self.tokens).count(word) > 1:
                raise ConfigError(f"adapter.tokens has {word!r}: give words without spaces, each once")
        return super().chosen(params)
