"""CLIP: a ViT with a class token and a causal text transformer."""

from typing import Any

import jax.numpy as jnp

from jvlm.core.build import call
from jvlm.models.dual_encoder import DualEncoder
from jvlm.models.text import TextTransformer
from jvlm.models.vit import SIZES, ViT
from jvlm.nn.dense import Dense, normal


def clip(
    *,
    embed_dim: int,
    image: dict[str, Any],
    text: dict[str, Any],
    act: str = "quick_gelu",
    scale_init: float = 1 / 0.07,
    bias_init: float | None = None,
    dtype: Any = "float32",
    scan: bool = True,
    remat: str = "none",
) -> DualEncoder:
    """CLIP (Radford et al., arXiv:2103.00020) from plain fields of its two towers."""
    dtype = jnp.dtype(dtype)
    shared: dict[str, Any] = dict(act=act, dtype=dtype, scan=scan, remat=remat)
    vision: dict[str, Any] = dict(pool="cls", pre_norm=True, norm_tokens=False, patch_bias=False, eps=1e-5)
    return DualEncoder(
        image_tower=call(ViT, vision | shared | image, "the image tower"),
        text_tower=call(TextTransformer, shared | text, "the text tower"),
        image_proj=Dense(
            embed_dim, ("embed", None), use_bias=False, dtype=dtype, kernel_init=normal(image["width"] ** -0.5)
        ),
        text_proj=Dense(
            embed_dim, ("embed", None), use_bias=False, dtype=dtype, kernel_init=normal(text["width"] ** -0.5)
        ),
        scale_init=scale_init,
        bias_init=bias_init,
    )


def _text(width: int, depth: int = 12) -> dict[str, Any]:
    heads = width // 64
    return dict(vocab_size=49408, length=77, width=width, depth=depth, num_heads=heads, mlp_dim=4 * width)


def _variant(size: str, patch: int, embed_dim: int, text: dict[str, Any], **fields: Any) -> dict[str, Any]:
    image_size = fields.pop("image_size", 224)
    return dict(
        embed_dim=embed_dim,
        image=dict(SIZES[size], patch_size=patch, image_size=image_size),
        text=text,
        **fields,
    )


VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:2103.00020, table 20
    "ViT-B/32": _variant("B", 32, 512, _text(512)),
    "ViT-B/16": _variant("B", 16, 512, _text(512)),
    "ViT-L/14": _variant("L", 14, 768, _text(768)),
    "ViT-L/14@336": _variant("L", 14, 768, _text(768), image_size=336),
    # Reproducible scaling laws, arXiv:2212.07143, and the OpenCLIP release of bigG
    "ViT-H/14": _variant("H", 14, 1024, _text(1024, 24), act="gelu"),
    "ViT-g/14": _variant("g", 14, 1024, _text(1024, 24), act="gelu"),
    "ViT-bigG/14": _variant("G", 14, 1280, _text(1280, 32), act="gelu"),
}

TINY: dict[str, Any] = dict(
    embed_dim=24,
    image=dict(width=32, depth=2, num_heads=4, mlp_dim=48, patch_size=8, image_size=16),
    text=dict(vocab_size=64, length=8, width=32, depth=2, num_heads=2, mlp_dim=48, eos_id=63),
)
