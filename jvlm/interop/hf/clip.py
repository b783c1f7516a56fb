"""`transformers.CLIPModel` directories."""

import math
from typing import Any

from jvlm.core.bijections import lead, patch
from jvlm.core.mapping import Rule, nest, rule
from jvlm.interop.hf.blocks import clip_encoder, linear, norm, tower_config, tower_fields
from jvlm.interop.table import Config, Table, require, single, size, unsize
from jvlm.models.dual_encoder import DualEncoder
from jvlm.models.text import TextTransformer
from jvlm.models.vit import ViT

# What transformers assumes where a published config.json is silent.
_TEXT = dict(
    vocab_size=49408,
    hidden_size=512,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=8,
    max_position_embeddings=77,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
    eos_token_id=49407,
)
_VISION = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    image_size=224,
    patch_size=32,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)
# Configurations written before transformers 4.31 say 2 and mean: pool at the highest token id.
_LEGACY_EOS = 2


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.clip` from a CLIPConfig."""
    text = _TEXT | dict(config.get("text_config_dict") or {}) | dict(config.get("text_config") or {})
    vision = dict(config.get("vision_config_dict") or {}) | dict(config.get("vision_config") or {})
    return dict(
        embed_dim=config.get("projection_dim", 512),
        image=vision_fields(vision),
        text=text_fields(text),
        scale_init=math.exp(config.get("logit_scale_init_value", 2.6592)),
    )


def config(model: DualEncoder) -> dict[str, Any]:
    """CLIPConfig of a model."""
    image: Any = model.image_tower
    text: Any = model.text_tower
    embed_dim = model.image_proj.features
    return dict(
        architectures=["CLIPModel"],
        model_type="clip",
        projection_dim=embed_dim,
        logit_scale_init_value=math.log(model.scale_init),
        text_config=dict(text_config(text), projection_dim=embed_dim),
        vision_config=dict(vision_config(image), projection_dim=embed_dim),
    )


def text_fields(config: Config) -> dict[str, Any]:
    """Fields of CLIP's text tower from a CLIPTextConfig."""
    c = _TEXT | dict(config)
    eos = c["eos_token_id"]
    pooling = dict(pool="highest") if eos == _LEGACY_EOS else dict(pool="eos", eos_id=eos)
    return dict(tower_fields(c), vocab_size=c["vocab_size"], length=c["max_position_embeddings"], **pooling)


def text_config(tower: TextTransformer) -> dict[str, Any]:
    """The inverse of `text_fields`."""
    return dict(
        tower_config(tower),
        model_type="clip_text_model",
        vocab_size=tower.vocab_size,
        max_position_embeddings=tower.length,
        eos_token_id=_LEGACY_EOS if tower.pool == "highest" else tower.eos_id,
    )


def vision_fields(config: Config) -> dict[str, Any]:
    """Fields of CLIP's vision tower from a CLIPVisionConfig."""
    c = _VISION | dict(config)
    require(c, "num_channels", 3)
    patch_size = single(c["patch_size"], "patch_size")
    return dict(tower_fields(c), patch_size=patch_size, image_size=size(c["image_size"]))


def vision_config(tower: ViT) -> dict[str, Any]:
    """The inverse of `vision_fields`."""
    own = dict(model_type="clip_vision_model", image_size=unsize(tower.image_size), patch_size=tower.patch_size)
    return dict(tower_config(tower), **own)


def vision_rules(tower: ViT) -> list[Rule]:
    """The tensor table of CLIPVisionModel."""
    return [
        rule("embeddings.class_embedding", "class_token", lead(2)),
        rule("embeddings.patch_embedding.weight", "patches/proj/kernel", patch(tower.patch_size)),
        rule("embeddings.position_embedding.weight", "pos_embed", lead(1)),
        *norm("pre_layrnorm", "norm_pre"),
        *clip_encoder("encoder", "blocks"),
        *norm("post_layernorm", "norm"),
    ]


def text_rules() -> list[Rule]:
    """The tensor table of CLIPTextModel."""
    return [
        rule("embeddings.token_embedding.weight", "token_embed/embedding"),
        rule("embeddings.position_embedding.weight", "pos_embed"),
        *clip_encoder("encoder", "blocks"),
        *norm("final_layer_norm", "norm"),
    ]


def rules(model: DualEncoder) -> list[Rule]:
    """The tensor table of CLIPModel."""
    return [
        rule("logit_scale", "logit_scale"),
        *linear("visual_projection", "image_proj", bias=False),
        *linear("text_projection", "text_proj", bias=False),
        *nest(vision_rules(model.image_tower), "vision_model.", "image_tower/"),
        *nest(text_rules(), "text_model.", "text_tower/"),
    ]


TABLE = Table("clip", fields, config, rules)
