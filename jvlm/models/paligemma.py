"""PaliGemma: SigLIP's patches through one linear layer into a Gemma that sees all of its prompt at once."""

from typing import Any

import jax.numpy as jnp

from jvlm.core.build import call
from jvlm.models.decoder import VARIANTS as DECODERS
from jvlm.models.decoder import decoder
from jvlm.models.llava import SIGLIP_TOWER
from jvlm.models.vision_language import VisionLanguage
from jvlm.models.vit import SIZES, ViT
from jvlm.nn.projector import Projector


def paligemma(
    *,
    image: dict[str, Any],
    text: dict[str, Any],
    image_token: int,
    dtype: Any = "float32",
    scan: bool = True,
    remat: str = "none",
) -> VisionLanguage:
    """PaliGemma (Beyer et al., arXiv:2407.07726; 2: arXiv:2412.03555) from plain fields of its parts.

    Pictures and prompt are a prefix that is seen in both directions: `prefix` of the call marks it in training.
    """
    numbers, shared = jnp.dtype(dtype), dict(scan=scan, remat=remat)
    language = call(decoder, dict(text, **shared, dtype=dtype), "the text tower")
    return VisionLanguage(
        image_tower=call(ViT, SIGLIP_TOWER | shared | dict(image, dtype=numbers), "the image tower"),
        bridge=Projector(language.width, depth=1, dtype=numbers),
        text_tower=language,
        image_token=image_token,
        prefix=True,
    )


def _variant(text: str, image_size: int) -> dict[str, Any]:
    return dict(
        image=dict(SIZES["So400m"], patch_size=14, image_size=image_size),
        text=dict(DECODERS[text], vocab_size=257_216),
        image_token=257_152,
    )


VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:2407.07726, as released: 1,024 places, 128 segments and the image token behind Gemma's vocabulary
    "3b-224": _variant("gemma-2b", 224),
    "3b-448": _variant("gemma-2b", 448),
    "3b-896": _variant("gemma-2b", 896),
    # arXiv:2412.03555
    "2-3b-224": _variant("gemma-2-2b", 224),
    "2-10b-224": _variant("gemma-2-9b", 224),
    "2-28b-224": _variant("gemma-2-27b", 224),
}

TINY: dict[str, Any] = dict(
    image=dict(width=32, depth=2, num_heads=4, mlp_dim=48, patch_size=8, image_size=16),
    text=dict(
        vocab_size=64, length=12, width=32, depth=2, num_heads=4, num_kv_heads=1, mlp_dim=48, rope=dict(theta=100.0),
        norm_offset=1.0, scaled_embed=True, act="gelu_tanh",
    ),
    image_token=63,
)  # fmt: skip
