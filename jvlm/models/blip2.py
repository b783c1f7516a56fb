"""BLIP-2 and InstructBLIP: a Q-Former between a frozen vision tower and a frozen language model."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.build import call
from jvlm.models.blip2_pretrain import QUERY_FIELDS, vision_tower
from jvlm.models.decoder import VARIANTS as DECODERS
from jvlm.models.decoder import decoder
from jvlm.models.qformer import QFormer
from jvlm.models.vision_language import VisionLanguage
from jvlm.models.vit import SIZES
from jvlm.nn.dense import Dense, normal


class QFormerBridge(nn.Module):
    """`x` [B, N, D'] to [B, Q, width]: what the queries read, projected to a language model.

    With a `question` [B, U] the queries are told what to look for (InstructBLIP, arXiv:2305.06500, section 2.3).
    """

    qformer: QFormer
    width: int
    dtype: Any = jnp.float32

    @property
    def num_queries(self) -> int:
        return self.qformer.num_queries

    @property
    def reads_question(self) -> bool:
        """Whether the queries are told the instruction."""
        return self.qformer.vocab_size is not None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        question: jax.Array | None = None,
        question_mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        if self.reads_question and question is None:
            if not self.is_initializing():
                raise ValueError("this Q-Former reads the instruction: give question")
            question = jnp.zeros((x.shape[0], 1), jnp.int32)
        y = self.qformer(x, tokens=question, mask=question_mask, train=train)[:, : self.qformer.num_queries]
        # As published: what a language model reads at first is no louder than its words.
        return Dense(self.width, axes=(None, "embed"), kernel_init=normal(0.02), dtype=self.dtype, name="proj")(y)


def blip2(
    *,
    image: dict[str, Any],
    qformer: dict[str, Any],
    text: dict[str, Any],
    image_token: int,
    dtype: Any = "float32",
    scan: bool = True,
    remat: str = "none",
) -> VisionLanguage:
    """BLIP-2 (Li et al., arXiv:2301.12597) with a decoder-only language model, from plain fields of its parts.

    `qformer` with a `vocab_size` reads the instruction: InstructBLIP (Dai et al., arXiv:2305.06500).
    """
    numbers, shared = jnp.dtype(dtype), dict(scan=scan, remat=remat)
    language = call(decoder, dict(text, **shared, dtype=dtype), "the text tower")
    queries = call(QFormer, QUERY_FIELDS | shared | dict(qformer, dtype=numbers), "the Q-Former")
    return VisionLanguage(
        image_tower=vision_tower(image, numbers, shared),
        bridge=QFormerBridge(queries, language.embed_width or language.width, numbers),
        text_tower=language,
        image_token=image_token,
        class_token=True,
    )


GIANT: dict[str, Any] = dict(SIZES["g"], depth=39, patch_size=14, image_size=224)
"""EVA-CLIP's ViT-g/14 (arXiv:2211.07636), without its last layer."""


def _variant(text: str, vocab_size: int, image_token: int, words: int | None = None) -> dict[str, Any]:
    qformer = {} if words is None else dict(vocab_size=words)
    return dict(image=GIANT, qformer=qformer, text=dict(DECODERS[text], vocab_size=vocab_size), image_token=image_token)


VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:2301.12597, as released: OPT with rows for the image token
    "opt-2.7b": _variant("opt-2.7b", 50304, 50265),
    "opt-6.7b": _variant("opt-6.7b", 50304, 50265),
    # arXiv:2305.06500
    "instruct-vicuna-7b": _variant("llama-2-7b", 32064, 32000, words=30523),
    "instruct-vicuna-13b": _variant("llama-2-13b", 32064, 32000, words=30523),
}

TINY: dict[str, Any] = dict(
    image=dict(width=32, depth=2, num_heads=4, mlp_dim=48, patch_size=8, image_size=16),
    qformer=dict(num_queries=2, width=32, depth=2, num_heads=4, mlp_dim=48),
    text=dict(
        vocab_size=64, length=12, width=32, depth=2, num_heads=4, num_kv_heads=2, mlp_dim=48, rope=dict(theta=100.0)
    ),
    image_token=63,
)
