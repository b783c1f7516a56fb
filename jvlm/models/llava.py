"""LLaVA: CLIP's patches through a projector into a Llama, and LLaVA-NeXT's tiles."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jvlm.core.build import call
from jvlm.models.decoder import VARIANTS as DECODERS
from jvlm.models.decoder import decoder
from jvlm.models.vision_language import VisionLanguage
from jvlm.models.vit import SIZES, ViT
from jvlm.nn.projector import Projector

CLIP_TOWER: dict[str, Any] = dict(
    pool="cls", pre_norm=True, norm_tokens=False, patch_bias=False, eps=1e-5, act="quick_gelu"
)
SIGLIP_TOWER: dict[str, Any] = dict(pool="none", class_token=False, eps=1e-6, act="gelu_tanh")


def llava(
    *,
    image: dict[str, Any],
    text: dict[str, Any],
    image_token: int,
    projector: dict[str, Any] | None = None,
    layers: Sequence[int] = (-2,),
    class_token: bool = False,
    tiles: Any = None,
    dtype: Any = "float32",
    scan: bool = True,
    remat: str = "none",
    attention: str = "einsum",
) -> VisionLanguage:
    """LLaVA (Liu et al., arXiv:2304.08485; 1.5: arXiv:2310.03744) from plain fields of its parts.

    `image` are fields of a `ViT` over those of CLIP's tower (`kind="siglip"`: over SigLIP's), `text` of a decoder,
    `projector` of a `Projector`: `depth` 1 is LLaVA 1.0's, 2 that of 1.5. `layers` and `class_token` choose what the
    projector sees; `tiles` are LLaVA-NeXT's sizes. `attention` is the decoder's.
    """
    image, shared = dict(image), dict(scan=scan, remat=remat)
    tower = SIGLIP_TOWER if image.pop("kind", "clip") == "siglip" else CLIP_TOWER
    numbers = jnp.dtype(dtype)
    language = call(decoder, dict(text, **shared, dtype=dtype, attention=attention), "the text tower")
    width = language.embed_width or language.width
    return VisionLanguage(
        image_tower=call(ViT, tower | shared | image | dict(dtype=numbers), "the image tower"),
        bridge=call(Projector, dict(projector or {}, width=width, dtype=numbers), "the projector"),
        text_tower=language,
        image_token=image_token,
        layers=tuple(layers),
        class_token=class_token,
        tiles=None if tiles is None else tuple((int(height), int(width)) for height, width in tiles),
    )


PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""Sizes (height, width) that LLaVA-NeXT was released with."""


def _variant(text: str, vocab_size: int, **fields: Any) -> dict[str, Any]:
    image = dict(SIZES["L"], patch_size=14, image_size=fields.pop("image_size", 336))
    return dict(image=image, text=dict(DECODERS[text], vocab_size=vocab_size), image_token=32000) | fields


VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:2304.08485: one linear layer on the grid before the last block
    "7b": _variant("llama-2-7b", 32003, image_size=224, projector=dict(depth=1)),
    # arXiv:2310.03744, as released: an MLP, 64 rows of the vocabulary for the image token and the pad
    "1.5-7b": _variant("llama-2-7b", 32064),
    "1.5-13b": _variant("llama-2-13b", 32064),
    # LLaVA-NeXT, Liu et al. 2024
    "next-vicuna-7b": _variant("llama-2-7b", 32064, tiles=PINPOINTS),
    "next-vicuna-13b": _variant("llama-2-13b", 32064, tiles=PINPOINTS),
    "next-mistral-7b": _variant("mistral-7b", 32064, tiles=PINPOINTS),
}

TINY: dict[str, Any] = dict(
    image=dict(width=32, depth=3, num_heads=4, mlp_dim=48, patch_size=8, image_size=16),
    text=dict(
        vocab_size=64, length=12, width=32, depth=2, num_heads=4, num_kv_heads=2, mlp_dim=48, rope=dict(theta=100.0)
    ),
    image_token=63,
)
