"""`transformers.CLIPModel` directories."""

import math
from typing import Any

from jvlm.core.mapping import Rule, lead, patch, rule
from jvlm.interop.hf.blocks import clip_encoder, linear, norm, tower_config, tower_fields
from jvlm.interop.table import Config, Table, require, single, size, unsize
from jvlm.models.dual_encoder import DualEncoder

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
    vision = _VISION | dict(config.get("vision_config_dict") or {}) | dict(config.get("vision_config") or {})
    require(vision, "num_channels", 3)
    eos = text["eos_token_id"]
    pooling = dict(pool="highest") if eos == _LEGACY_EOS else dict(pool="eos", eos_id=eos)
    return dict(
        embed_dim=config.get("projection_dim", 512),
        image=dict(
            tower_fields(vision),
            patch_size=single(vision["patch_size"], "patch_size"),
            image_size=size(vision["image_size"]),
        ),
        text=dict(
            tower_fields(text),
            vocab_size=text["vocab_size"],
            length=text["max_position_embeddings"],
            **pooling,
        ),
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
        text_config=dict(
            tower_config(text),
            model_type="clip_text_model",
            vocab_size=text.vocab_size,
            max_position_embeddings=text.length,
            eos_token_id=_LEGACY_EOS if text.pool == "highest" else text.eos_id,
            projection_dim=embed_dim,
        ),
        vision_config=dict(
            tower_config(image),
            model_type="clip_vision_model",
            image_size=unsize(image.image_size),
            patch_size=image.patch_size,
            projection_dim=embed_dim,
        ),
    )


def rules(model: DualEncoder) -> list[Rule]:
    """The tensor table of CLIPModel."""
    p = model.image_tower.patch_size
    vision, image = "vision_model", "image_tower"
    text, tokens = "text_model", "text_tower"
    return [
        rule("logit_scale", "logit_scale"),
        *linear("visual_projection", "image_proj", bias=False),
        *linear("text_projection", "text_proj", bias=False),
        rule(f"{vision}.embeddings.class_embedding", f"{image}/class_token", lead(2)),
        rule(f"{vision}.embeddings.patch_embedding.weight", f"{image}/patches/proj/kernel", patch(p)),
        rule(f"{vision}.embeddings.position_embedding.weight", f"{image}/pos_embed", lead(1)),
        *norm(f"{vision}.pre_layrnorm", f"{image}/norm_pre"),
        *clip_encoder(f"{vision}.encoder", f"{image}/blocks"),
        *norm(f"{vision}.post_layernorm", f"{image}/norm"),
        rule(f"{text}.embeddings.token_embedding.weight", f"{tokens}/token_embed/embedding"),
        rule(f"{text}.embeddings.position_embedding.weight", f"{tokens}/pos_embed"),
        *clip_encoder(f"{text}.encoder", f"{tokens}/blocks"),
        *norm(f"{text}.final_layer_norm", f"{tokens}/norm"),
    ]


TABLE = Table("clip", fields, config, rules)
