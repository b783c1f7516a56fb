"""Flamingo: a frozen language model that reads pictures through gates; Idefics is its public weights."""

from typing import Any

import jax
import jax.numpy as jnp

from jvlm.core.build import call
from jvlm.models.decoder import VARIANTS as DECODERS
from jvlm.models.decoder import DecoderOutput, decoder
from jvlm.models.llava import CLIP_TOWER
from jvlm.models.text_writer import TextWriter
from jvlm.models.vit import SIZES, ViT
from jvlm.nn.cache import Cache
from jvlm.nn.dense import Dense, Embed
from jvlm.nn.gated import GatedCross, Gates, interleave
from jvlm.nn.pooling import pick
from jvlm.nn.resampler import Resampler


class Flamingo(TextWriter):
    """Flamingo (Alayrac et al., arXiv:2204.14198): every `every`-th block of `text_tower` follows a `gate`.

    A token sees one picture: the last whose `image_token` stands at or before it (section 2.3). `bridge` resamples
    what the vision tower says of a picture (None: all of it). `extra_vocab` tokens beyond the language model's
    vocabulary have embeddings and a head of their own, which are learnt while the others are frozen.
    """

    image_tower: Any
    bridge: Any
    gate: GatedCross
    every: int
    image_token: int
    extra_vocab: int = 0

    def setup(self) -> None:
        self.gates = Gates(self.gate.clone(parent=None), -(-self.text_tower.depth // self.every))
        if self.extra_vocab:
            dtype = self.text_tower.dtype
            self.extra_embed = Embed(self.extra_vocab, self.text_tower.width, (None, "embed"), dtype=dtype)
            self.extra_head = Dense(self.extra_vocab, axes=("embed", None), use_bias=False, dtype=dtype)

    def __call__(
        self,
        tokens: jax.Array,
        image: jax.Array | None = None,
        image_mask: jax.Array | None = None,
        segments: jax.Array | None = None,
        cache: Cache | None = None,
        at: int | jax.Array | None = None,
        train: bool = False,
        places: jax.Array | None = None,
        **inputs: Any,
    ) -> DecoderOutput:
        """`tokens` [B, T] in which `image_token` stands once for each of the pictures `image` [B, M, H, W, 3].

        `image_mask` [B, M] is False for a picture that is none. `segments` [B, T] number the texts packed into a row,
        none of which sees another's pictures. `places` is known from `tokens`. The rest goes to the decoder's call.
        """
        del places
        memory = mask = None
        if image is not None:
            memory = self.features(image, train)  # [B, M, R, D']
            seen = self.visible(tokens, memory.shape[1], segments)
            if image_mask is not None:
                seen = seen & image_mask.astype(bool)[:, None]
            mask = jnp.repeat(seen, memory.shape[2], axis=2)[:, None]  # [B, 1, T, M R]
            memory = memory.reshape(memory.shape[0], -1, memory.shape[-1])
        elif cache is not None and cache.memory_keep is not None:
            mask = jnp.broadcast_to(
                cache.memory_keep[:, None, None], (tokens.shape[0], 1, tokens.shape[1], cache.memory_keep.shape[1])
            )
        x = self.embed(tokens)
        if self.is_initializing() and memory is not None:
            self.gates(x, memory, mask)
        through: Any = None
        if mask is not None and not self.is_initializing():
            key = self.make_rng("dropout") if train and self.has_rng("dropout") else None

            def run(x: jax.Array, shared: Any, cache: Any, train: bool = False) -> Any:
                return interleave(
                    self.gates, self.text_tower.blocks, self.every, x, shared, cache, train, memory, mask, key
                )

            through = run
        out = self.text_tower(
            embeddings=x, segments=segments, cache=cache, at=at, train=train, through=through, **inputs
        )
        if out.cache is not None and mask is not None:
            out = out.replace(cache=out.cache.replace(memory_keep=mask[:, 0, -1]))
        if self.extra_vocab:
            extra = self.extra_head(out.tokens if at is None else pick(out.tokens, at))
            out = out.replace(logits=jnp.concatenate([out.logits, extra.astype(jnp.float32)], axis=-1))
        return out

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Embeddings [B, T, W] of `tokens` [B, T], those beyond the language model's vocabulary included."""
        known = self.text_tower.vocab_size
        x = self.text_tower.embed(jnp.where(tokens < known, tokens, 0))
        if not self.extra_vocab:
            return x
        extra = self.extra_embed(jnp.clip(tokens - known, 0, self.extra_vocab - 1))
        return jnp.where((tokens >= known)[..., None], extra, x)

    def logits(self, x: jax.Array) -> jax.Array:
        """Logits [..., V] in float32 of what left the decoder's last norm [..., D]."""
        y = self.text_tower.logits(x)
        return jnp.concatenate([y, self.extra_head(x).astype(jnp.float32)], axis=-1) if self.extra_vocab else y

    def features(self, image: jax.Array, train: bool = False) -> jax.Array:
        """What is read of each picture, [B, M, R, D'], of `image` [B, M, H, W, 3]."""
        flat = image.reshape(-1, *image.shape[2:])
        x = self.image_tower(flat, train=train, layers=(-1,)).tokens
        x = x if self.bridge is None else self.bridge(x, train=train)
        return x.reshape(*image.shape[:2], *x.shape[1:])

    def visible(self, tokens: jax.Array, pictures: int, segments: jax.Array | None = None) -> jax.Array:
        """Which of the pictures each token sees, [B, T, M]: the last before it, in its own text."""
        marks = tokens == self.image_token
        last = jnp.cumsum(marks, axis=1) - 1
        seen = last[:, :, None] == jnp.arange(pictures)
        if segments is None:
            return seen
        own = jnp.where(seen & marks[:, :, None], segments[:, :, None], -1).max(axis=1)  # [B, M]
        return seen & (own[:, None] == segments[:, :, None])

    def image_tokens(self) -> int:
        """Number of tokens that stand for a picture."""
        return 1

    def step(self, tokens: jax.Array, cache: Cache) -> DecoderOutput:
        """One more token [B] for each text, which sees what the last of the prompt saw: logits [B, V]."""
        return self(tokens[:, None], cache=cache, at=-1)


def flamingo(
    *,
    image: dict[str, Any],
    text: dict[str, Any],
    image_token: int,
    resampler: dict[str, Any] | None = None,
    gate: dict[str, Any] | None = None,
    every: int = 4,
    extra_vocab: int = 0,
    dtype: Any = "float32",
    scan: bool = True,
    remat: str = "none",
) -> Flamingo:
    """A `Flamingo` from plain fields of a `ViT` over CLIP's, a decoder, a `Resampler` (None: none) and a gate.

    The gates have the decoder's heads and MLP unless `gate` says otherwise.
    """
    numbers, shared = jnp.dtype(dtype), dict(scan=scan, remat=remat)
    language = call(decoder, dict(text, **shared, dtype=dtype), "the text tower")
    own: dict[str, Any] = dict(
        num_heads=language.num_heads, head_dim=language.heads_width, mlp_dim=language.mlp_dim, act=language.act,
        gated=language.gated, eps=language.eps, dtype=numbers,
    )  # fmt: skip
    resampler = None if resampler is None else dict(resampler, scan=scan, dtype=numbers)
    return Flamingo(
        image_tower=call(ViT, CLIP_TOWER | shared | dict(image, dtype=numbers), "the image tower"),
        bridge=None if resampler is None else call(Resampler, resampler, "the resampler"),
        text_tower=language,
        gate=call(GatedCross, own | (gate or {}), "the gates"),
        every=every,
        image_token=image_token,
        extra_vocab=extra_vocab,
    )


_IDEFICS: dict[str, Any] = dict(
    image=dict(SIZES["H"], patch_size=14, image_size=224, act="gelu"),
    resampler=dict(num_queries=64, depth=6, num_heads=16, head_dim=96, mlp_dim=5120, qk_norm=True),
    gate=dict(qk_norm=True, vector=True),
    every=4,
    image_token=32001,
    extra_vocab=2,
)

VARIANTS: dict[str, dict[str, Any]] = {
    # OBELICS, arXiv:2306.16527, and its released models
    "idefics-9b": dict(_IDEFICS, text=dict(DECODERS["llama-2-7b"], length=2048, eps=1e-6)),
}

TINY: dict[str, Any] = dict(
    image=dict(width=32, depth=2, num_heads=4, mlp_dim=48, patch_size=8, image_size=16),
    text=dict(
        vocab_size=64, length=12, width=32, depth=4, num_heads=4, num_kv_heads=4, mlp_dim=48, rope=dict(theta=100.0)
    ),
    resampler=dict(num_queries=2, depth=2, num_heads=2, head_dim=12, mlp_dim=40),
    image_token=63,
    every=2,
)
