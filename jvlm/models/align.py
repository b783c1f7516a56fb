"""ALIGN: an EfficientNet and a BERT, with a temperature that divides."""

from typing import Any

import jax.numpy as jnp

from jvlm.core.build import call
from jvlm.models.bert import VARIANTS as BERT
from jvlm.models.bert import Bert
from jvlm.models.dual_encoder import DualEncoder
from jvlm.models.efficientnet import efficientnet
from jvlm.nn.dense import Dense, normal


def align(
    *,
    image: dict[str, Any],
    text: dict[str, Any],
    embed_dim: int = 640,
    scale_init: float = 1.0,
    dtype: Any = "float32",
    scan: bool = True,
    remat: str = "none",
) -> DualEncoder:
    """ALIGN (Jia et al., arXiv:2102.05918) from plain fields of its two towers.

    The image embedding is the pooled feature map itself, the text's a linear projection of the first token. A model
    is only usable where `embed_dim` equals the width of the image tower.
    """
    image_tower = efficientnet(**(dict(dtype=dtype, remat=remat) | image))
    if image_tower.width != embed_dim:
        raise ValueError(f"the picture's embedding has {image_tower.width} dimensions, the text's {embed_dim}")
    tokens: dict[str, Any] = dict(pool="first", dtype=jnp.dtype(dtype), scan=scan, remat=remat)
    return DualEncoder(
        image_tower=image_tower,
        text_tower=call(Bert, tokens | text, "the text tower"),
        text_proj=Dense(embed_dim, ("embed", None), kernel_init=normal(0.02), dtype=jnp.dtype(dtype)),
        scale_init=scale_init,
        divide=True,
    )


VARIANTS: dict[str, dict[str, Any]] = {
    # EfficientNet-B7 and BERT-Base, the released reproduction of arXiv:2102.05918 (the paper's largest is L2 and Large)
    "base": dict(image=dict(image_size=289), text=BERT["base"]),
}

TINY: dict[str, Any] = dict(
    embed_dim=24,
    image=dict(
        image_size=16,
        width_mult=0.5,
        depth_mult=1.0,
        stages=[[3, 16, 1, 1, 1], [5, 24, 2, 2, 6], [3, 48, 2, 1, 4]],
    ),
    text=dict(vocab_size=64, length=8, width=32, depth=2, num_heads=2, mlp_dim=48),
)
