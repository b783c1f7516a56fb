"""SigLIP and SigLIP 2: ViTs with attention pooling, a bidirectional text tower, a scale and a bias."""

from typing import Any

import jax.numpy as jnp

from jvlm.core.build import call
from jvlm.models.dual_encoder import DualEncoder
from jvlm.models.text import TextTransformer
from jvlm.models.vit import SIZES, ViT
from jvlm.nn.dense import Dense


def siglip(
    *,
    image: dict[str, Any],
    text: dict[str, Any],
    embed_dim: int | None = None,
    act: str = "gelu_tanh",
    scale_init: float = 10.0,
    bias_init: float | None = -10.0,
    dtype: Any = "float32",
    scan: bool = True,
    remat: str = "none",
) -> DualEncoder:
    """SigLIP (Zhai et al., arXiv:2303.15343) from plain fields of its two towers.

    The image embedding is the pooled vector itself; the text's passes a linear head to `embed_dim`, by default the
    image tower's width.
    """
    dtype = jnp.dtype(dtype)
    shared: dict[str, Any] = dict(act=act, dtype=dtype, scan=scan, remat=remat, eps=1e-6)
    vision: dict[str, Any] = dict(pool="map", class_token=False)
    tokens: dict[str, Any] = dict(causal=False, pool="last")
    return DualEncoder(
        image_tower=call(ViT, vision | shared | image, "the image tower"),
        text_tower=call(TextTransformer, tokens | shared | text, "the text tower"),
        text_proj=Dense(embed_dim or image["width"], ("embed", None), dtype=dtype),
        scale_init=scale_init,
        bias_init=bias_init,
    )


def _text(size: str, vocab_size: int, length: int = 64) -> dict[str, Any]:
    return dict(SIZES[size], vocab_size=vocab_size, length=length)


def _variant(size: str, patch: int, image_size: int, vocab_size: int = 32_000, **fields: Any) -> dict[str, Any]:
    image = dict(SIZES[size], patch_size=patch, image_size=image_size)
    text = _text(fields.pop("text", size), vocab_size, fields.pop("length", 64))
    return dict(image=image, text=text, **fields)


GEMMA_VOCABULARY = 256_000

VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:2303.15343; So400m after arXiv:2305.13035
    "B/16": _variant("B", 16, 224),
    "B/16@256": _variant("B", 16, 256),
    "B/16@384": _variant("B", 16, 384),
    "B/16@512": _variant("B", 16, 512),
    "L/16": _variant("L", 16, 256),
    "L/16@384": _variant("L", 16, 384),
    "So400m/14": _variant("So400m", 14, 224, length=16),
    "So400m/14@384": _variant("So400m", 14, 384),
    # SigLIP 2 at fixed resolution, arXiv:2502.14786
    "2-B/16": _variant("B", 16, 224, GEMMA_VOCABULARY),
    "2-B/32": _variant("B", 32, 256, GEMMA_VOCABULARY),
    "2-L/16": _variant("L", 16, 256, GEMMA_VOCABULARY),
    "2-So400m/14": _variant("So400m", 14, 224, GEMMA_VOCABULARY),
    "2-g-opt/16": _variant("g-opt", 16, 256, GEMMA_VOCABULARY, text="So400m", embed_dim=1536),
}

TINY: dict[str, Any] = dict(
    image=dict(width=32, depth=2, num_heads=4, mlp_dim=48, patch_size=8, image_size=16),
    text=dict(vocab_size=64, length=8, width=32, depth=2, num_heads=2, mlp_dim=48),
)
