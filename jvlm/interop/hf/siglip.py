"""`transformers.SiglipModel` directories, and `Siglip2Model` ones at fixed resolution."""

import math
from typing import Any

from jvlm.core.bijections import TRANSPOSE, drop_lead, lead, patch, split
from jvlm.core.errors import UserError
from jvlm.core.mapping import Rule, nest, rule
from jvlm.interop.hf.blocks import clip_encoder, linear, norm, tower_config, tower_fields
from jvlm.interop.table import Config, Table, require, single, size, unsize
from jvlm.models.dual_encoder import DualEncoder
from jvlm.models.vit import ViT

_TEXT = dict(
    vocab_size=32000,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=64,
    hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-6,
)
_VISION = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    image_size=224,
    num_patches=256,
    patch_size=16,
    hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-6,
)


def _fields(config: Config, image_size: Any) -> dict[str, Any]:
    text = _TEXT | dict(config.get("text_config") or {})
    vision = _VISION | dict(config.get("vision_config") or {})
    require(vision, "num_channels", 3)
    require(vision, "vision_use_head", True)
    return dict(
        embed_dim=text.get("projection_size") or text["hidden_size"],
        image=dict(
            tower_fields(vision),
            patch_size=single(vision["patch_size"], "patch_size"),
            image_size=image_size(vision),
        ),
        text=dict(tower_fields(text), vocab_size=text["vocab_size"], length=text["max_position_embeddings"]),
    )


def _grid_size(vision: dict[str, Any]) -> int:
    side = math.isqrt(vision["num_patches"])
    if side * side != vision["num_patches"]:
        raise UserError(f"config.json has num_patches = {vision['num_patches']}; jvlm implements square grids")
    return side * single(vision["patch_size"], "patch_size")


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.siglip` from a SiglipConfig."""
    return _fields(config, lambda vision: size(vision["image_size"]))


def fields2(config: Config) -> dict[str, Any]:
    """Fields of `models.siglip` from a Siglip2Config: the square picture whose grid is the position table."""
    return _fields(config, _grid_size)


def _config(model: DualEncoder, name: str, version: str) -> dict[str, Any]:
    image: Any = model.image_tower
    text: Any = model.text_tower
    return dict(
        architectures=[name],
        model_type=version,
        text_config=dict(
            tower_config(text),
            model_type=f"{version}_text_model",
            vocab_size=text.vocab_size,
            max_position_embeddings=text.length,
            projection_size=model.text_proj.features,
        ),
        vision_config=dict(
            tower_config(image),
            model_type=f"{version}_vision_model",
            patch_size=image.patch_size,
        ),
    )


def config(model: DualEncoder) -> dict[str, Any]:
    """SiglipConfig of a model."""
    out = _config(model, "SiglipModel", "siglip")
    out["vision_config"]["image_size"] = unsize(model.image_tower.image_size)
    return out


def config2(model: DualEncoder) -> dict[str, Any]:
    """Siglip2Config of a model."""
    out = _config(model, "Siglip2Model", "siglip2")
    rows, cols = model.image_tower.grid
    out["vision_config"]["num_patches"] = rows * cols
    return out


def vision_fields(config: Config) -> dict[str, Any]:
    """Fields of SigLIP's vision tower without its pooling head, from a SiglipVisionConfig."""
    c = _VISION | dict(config)
    require(c, "num_channels", 3)
    require(c, "vision_use_head", False)
    patch_size = single(c["patch_size"], "patch_size")
    return dict(tower_fields(c), patch_size=patch_size, image_size=size(c["image_size"]))


def vision_config(tower: ViT) -> dict[str, Any]:
    """The inverse of `vision_fields`."""
    own = dict(model_type="siglip_vision_model", image_size=unsize(tower.image_size), patch_size=tower.patch_size)
    return dict(tower_config(tower), vision_use_head=False, **own)


def vision_rules(tower: ViT) -> list[Rule]:
    """The tensor table of SiglipVisionModel without its pooling head."""
    patches = rule("embeddings.patch_embedding.weight", "patches/proj/kernel", patch(tower.patch_size))
    return [patches, *_encoder_rules()]


def _encoder_rules() -> list[Rule]:
    return [
        rule("embeddings.patch_embedding.bias", "patches/proj/bias"),
        rule("embeddings.position_embedding.weight", "pos_embed", lead(1)),
        *clip_encoder("encoder", "blocks"),
        *norm("post_layernorm", "norm"),
    ]


def _rules(patch_rule: Rule) -> list[Rule]:
    vision, image = "vision_model", "image_tower"
    text, tokens = "text_model", "text_tower"
    head, pool = f"{vision}.head", f"{image}/map_head"
    qkv = tuple(f"{pool}/attn/{part}" for part in ("query", "key", "value"))
    return [
        rule("logit_scale", "logit_scale", drop_lead(1)),
        rule("logit_bias", "logit_bias", drop_lead(1)),
        patch_rule,
        *nest(_encoder_rules(), f"{vision}.", f"{image}/"),
        rule(f"{head}.probe", f"{pool}/probe"),
        rule(f"{head}.attention.in_proj_weight", tuple(f"{x}/kernel" for x in qkv), split(3, transpose=True)),
        rule(f"{head}.attention.in_proj_bias", tuple(f"{x}/bias" for x in qkv), split(3, transpose=False)),
        *linear(f"{head}.attention.out_proj", f"{pool}/attn/out"),
        *norm(f"{head}.layernorm", f"{pool}/norm"),
        *linear(f"{head}.mlp.fc1", f"{pool}/mlp/up"),
        *linear(f"{head}.mlp.fc2", f"{pool}/mlp/down"),
        rule(f"{text}.embeddings.token_embedding.weight", f"{tokens}/token_embed/embedding"),
        rule(f"{text}.embeddings.position_embedding.weight", f"{tokens}/pos_embed"),
        *clip_encoder(f"{text}.encoder", f"{tokens}/blocks"),
        *norm(f"{text}.final_layer_norm", f"{tokens}/norm"),
        *linear(f"{text}.head", "text_proj"),
    ]


_PATCH = ("vision_model.embeddings.patch_embedding.weight", "image_tower/patches/proj/kernel")


def rules(model: DualEncoder) -> list[Rule]:
    """The tensor table of SiglipModel."""
    return _rules(rule(*_PATCH, patch(model.image_tower.patch_size)))


def rules2(model: DualEncoder) -> list[Rule]:
    """The tensor table of Siglip2Model, whose patches are flattened before a linear layer, as ours are."""
    return _rules(rule(*_PATCH, TRANSPOSE))


TABLE = Table("siglip", fields, config, rules)
TABLE2 = Table("siglip", fields2, config2, rules2)
