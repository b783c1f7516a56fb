"""A vision tower, a bridge and a language model: pictures become tokens among the words."""

from typing import Any

import jax
import jax.numpy as jnp

from jvlm.models.decoder import DecoderOutput
from jvlm.models.text_writer import TextWriter
from jvlm.nn.axes import named
from jvlm.nn.cache import Cache
from jvlm.nn.dense import normal
from jvlm.nn.merge import feature_places, merge_image_features


class VisionLanguage(TextWriter):
    """A decoder (`text_tower`) that reads `bridge(image_tower(image))` where its text holds `image_token`.

    LLaVA, PaliGemma, BLIP-2 and InstructBLIP are this with different parts. The features of a picture are the
    sequence that leaves the tower, or, with `layers`, its hidden states there, side by side: 0 is what enters the
    blocks, -1 what leaves the last one, before the tower's last norm. `class_token` keeps the tower's class token
    among them. `prefix` lets the prompt of a prefill see all of itself. `tiles` are the sizes (height, width) that
    pictures are cut to tiles from (LLaVA-NeXT); a learned vector then ends each line of patches.
    """

    image_tower: Any
    bridge: Any
    image_token: int
    layers: tuple[int, ...] | None = None
    class_token: bool = False
    prefix: bool = False
    tiles: tuple[tuple[int, int], ...] | None = None

    def setup(self) -> None:
        if self.tiles is not None:
            width = self.text_tower.embed_width or self.text_tower.width
            init = named(normal(width**-0.5), ("embed",))
            self.image_newline = self.param("image_newline", init, (width,), jnp.float32)

    def __call__(
        self,
        tokens: jax.Array,
        image: jax.Array | None = None,
        image_mask: jax.Array | None = None,
        places: jax.Array | None = None,
        question: jax.Array | None = None,
        question_mask: jax.Array | None = None,
        train: bool = False,
        **inputs: Any,
    ) -> DecoderOutput:
        """`tokens` [B, T] in which `image_token` stands once for each feature of the pictures `image` [B, M, H, W, 3].

        `image_mask` [B, M] is False for a picture that is none. `places` [B, T] says which feature of its row a token
        takes, -1 a new line, -2 none; by default features are taken in order. `question` [B, U], or [B, M, U] for
        each picture, with `question_mask` are what a bridge that reads the instruction is given. The rest goes to the
        decoder's call.
        """
        embeddings = self.embed(tokens, image, image_mask, places, question, question_mask, train)
        return self.text_tower(embeddings=embeddings, train=train, **inputs)

    def embed(
        self,
        tokens: jax.Array,
        image: jax.Array | None = None,
        image_mask: jax.Array | None = None,
        places: jax.Array | None = None,
        question: jax.Array | None = None,
        question_mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """What the decoder reads [B, T, W]: the embeddings of words, the features of pictures."""
        wanted = tokens == self.image_token
        # The image token may lie beyond the embeddings.
        embeddings = self.text_tower.embed(jnp.where(wanted & (tokens >= self.text_tower.vocab_size), 0, tokens))
        if image is None:
            return embeddings
        features = self.features(image, question, question_mask, train)  # [B, M, N, W]
        batch, _, count, width = features.shape
        features = features.reshape(batch, -1, width)
        if places is None:
            places = feature_places(wanted, None if image_mask is None else image_mask.astype(bool), count)
        newline = self.image_newline if self.tiles is not None else None
        return merge_image_features(embeddings, features, places, newline)

    def features(
        self,
        image: jax.Array,
        question: jax.Array | None = None,
        question_mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """The bridge's features [B, M, N, W] of `image` [B, M, H, W, 3]."""
        batch, pictures = image.shape[:2]
        tower, flat = self.image_tower, image.reshape(batch * pictures, *image.shape[2:])
        x = tower(flat, train=train, layers=self.layers).tokens
        if tower.class_token and not self.class_token:
            x = x[:, 1:]
        asked = {}
        if question is not None:
            mask = jnp.ones(question.shape, bool) if question_mask is None else question_mask
            asked = {
                name: y.reshape(-1, y.shape[-1]) if y.ndim == 3 else jnp.repeat(y, pictures, 0)
                for name, y in dict(question=question, question_mask=mask).items()
            }
        x = self.bridge(x, train=train, **asked)
        return x.reshape(batch, pictures, *x.shape[1:])

    def logits(self, x: jax.Array) -> jax.Array:
        """Logits [..., V] in float32 of what left the decoder's last norm [..., D]."""
        return self.text_tower.logits(x)

    @property
    def reads_question(self) -> bool:
        """Whether the bridge is given the instruction, too."""
        return getattr(self.bridge, "reads_question", False)

    def image_tokens(self) -> int:
        """Number of features, and so of image tokens, of a picture."""
        rows, cols = self.image_tower.grid
        queries = getattr(self.bridge, "num_queries", None)
        if queries:
            return queries
        grid = rows * cols // getattr(self.bridge, "merge", 1) ** 2
        return grid + int(self.image_tower.class_token and self.class_token)

    def prefill(self, cache: Cache, **inputs: Any) -> DecoderOutput:
        """A prompt with its pictures into an empty cache: logits of the last token, [B, V]."""
        if self.prefix and inputs.get("prefix") is None:
            mask = inputs.get("mask")
            inputs["prefix"] = jnp.ones(inputs["tokens"].shape, bool) if mask is None else mask
        return super().prefill(cache, **inputs)
