"""What every model that writes with a language model inside it hands to the generator."""

from typing import Any

import jax
from flax import linen as nn

from jvlm.models.decoder import DecoderOutput
from jvlm.nn.cache import Cache


class TextWriter(nn.Module):
    """A model around a decoder, `text_tower`: its length, its cache, and how a prompt is read and a token added."""

    text_tower: Any

    continues = True
    """What is written follows the prompt in the same text."""

    @property
    def length(self) -> int:
        return self.text_tower.length

    @property
    def dtype(self) -> Any:
        return self.text_tower.dtype

    def room(self, prompt: int) -> int:
        """How many tokens may follow a prompt of that many."""
        return self.text_tower.room(prompt)

    def empty_cache(self, batch: int, length: int, stacked: bool = True) -> Cache:
        """The decoder's own."""
        return self.text_tower.empty_cache(batch, length, stacked)

    def prefill(self, cache: Cache, **inputs: Any) -> DecoderOutput:
        """A prompt with its pictures into an empty cache: logits of the last token, [B, V]."""
        return self(cache=cache, at=-1, alone=True, **inputs)

    def step(self, tokens: jax.Array, cache: Cache) -> DecoderOutput:
        """One more token [B] for each text, without pictures: logits [B, V]."""
        return self.text_tower.step(tokens, cache)
