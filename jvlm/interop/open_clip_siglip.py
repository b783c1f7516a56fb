"""SigLIP in open_clip directories: a tower of timm's, which only its name describes, beside open_clip's text tower."""

import math
from typing import Any

from jvlm.core.bijections import patch, split
from jvlm.core.errors import UserError, nearest
from jvlm.core.mapping import Rule, nest, rule
from jvlm.interop.hf.blocks import linear, norm
from jvlm.interop.open_clip import BLOCK, CONFIG, refuse, text_config, text_fields, text_rules
from jvlm.interop.table import Config, Table
from jvlm.models.dual_encoder import DualEncoder
from jvlm.models.vit import SIZES


def _trunks(name: str, size: str, patch_size: int, act: str, *sides: int) -> dict[str, dict[str, Any]]:
    return {
        f"vit_{name}_patch{patch_size}_siglip_{side}": dict(
            SIZES[size], patch_size=patch_size, image_size=side, act=act
        )
        for side in sides
    }


TRUNKS: dict[str, dict[str, Any]] = {
    **_trunks("base", "B", 32, "gelu_tanh", 256),
    **_trunks("base", "B", 16, "gelu", 224, 256, 384, 512),
    **_trunks("large", "L", 16, "gelu", 256, 384),
    **_trunks("large", "L", 16, "gelu_tanh", 512),
    **_trunks("so400m", "So400m", 14, "gelu", 224, 378, 384),
    **_trunks("so400m", "So400m", 16, "gelu_tanh", 256, 384, 512),
    **_trunks("giantopt", "g-opt", 16, "gelu_tanh", 256, 384),
}
"""Fields of the image tower by timm's name, the activation included: timm computes most with the exact GELU."""

_FIXED_VISION: dict[str, Any] = dict(timm_pool="map", timm_proj="none")
_FIXED_TEXT: dict[str, Any] = dict(BLOCK, hf_model_name=None, embed_cls=False, proj_type="linear", pool_type="last")


def is_siglip(config: Config) -> bool:
    """Whether a configuration names a tower of timm's."""
    return bool(config.get("model_cfg", {}).get("vision_cfg", {}).get("timm_model_name"))


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.siglip` from open_clip_config.json. UserError names what is not implemented."""
    c = config["model_cfg"]
    vision, text = c["vision_cfg"], c["text_cfg"]
    name = vision["timm_model_name"]
    if name not in TRUNKS:
        raise UserError(f"{CONFIG} has vision_cfg.timm_model_name = {name!r}; {nearest(name, TRUNKS)}")
    refuse(vision, _FIXED_VISION, "vision_cfg.")
    refuse(text, _FIXED_TEXT, "text_cfg.")
    image = TRUNKS[name]
    if not text.get("proj_bias") or c["embed_dim"] != image["width"]:
        raise UserError(f"{CONFIG} is no SigLIP: it has no text_cfg.proj_bias, or an embed_dim unlike {image['width']}")
    return dict(
        embed_dim=c["embed_dim"],
        image=dict(image),
        text=text_fields(text, quick=bool(c.get("quick_gelu"))),
        scale_init=math.exp(c.get("init_logit_scale", math.log(1 / 0.07))),
        bias_init=c.get("init_logit_bias"),
    )


def config(model: DualEncoder) -> dict[str, Any]:
    """`model_cfg` of a model in open_clip_config.json. UserError where timm has no tower like the model's."""
    image: Any = model.image_tower
    own = {key: getattr(image, key) for key in next(iter(TRUNKS.values()))}
    name = next((name for name, trunk in TRUNKS.items() if trunk == own), None)
    if name is None:
        found = ", ".join(f"{key} {value}" for key, value in own.items())
        raise UserError(f"open_clip takes SigLIP's towers from timm, which has none with {found}; use --format hf")
    vision = dict(image_size=image.image_size, timm_model_name=name, timm_model_pretrained=False)
    out = dict(
        embed_dim=model.text_proj.features,
        custom_text=True,
        init_logit_scale=math.log(model.scale_init),
        vision_cfg=vision | _FIXED_VISION,
        text_cfg=dict(text_config(model.text_tower), proj_bias=True),
    )
    return dict(model_cfg=out if model.bias_init is None else dict(out, init_logit_bias=model.bias_init))


def rules(model: DualEncoder) -> list[Rule]:
    """The tensor table of open_clip's SigLIP."""
    trunk, image = "visual.trunk", "image_tower"
    layer, layers = f"{trunk}.blocks.{{}}", f"{image}/blocks/layers"
    pool, head = f"{trunk}.attn_pool", f"{image}/map_head"
    qkv = [f"{layers}/attn/{part}" for part in ("query", "key", "value")]
    kv = [f"{head}/attn/{part}" for part in ("key", "value")]
    return [
        rule("logit_scale", "logit_scale"),
        *([] if model.bias_init is None else [rule("logit_bias", "logit_bias")]),
        rule(f"{trunk}.patch_embed.proj.weight", f"{image}/patches/proj/kernel", patch(model.image_tower.patch_size)),
        rule(f"{trunk}.patch_embed.proj.bias", f"{image}/patches/proj/bias"),
        rule(f"{trunk}.pos_embed", f"{image}/pos_embed"),
        *norm(f"{layer}.norm1", f"{layers}/norm_attn"),
        *norm(f"{layer}.norm2", f"{layers}/norm_mlp"),
        *_fused(f"{layer}.attn.qkv", qkv),
        *linear(f"{layer}.attn.proj", f"{layers}/attn/out"),
        *linear(f"{layer}.mlp.fc1", f"{layers}/mlp/up"),
        *linear(f"{layer}.mlp.fc2", f"{layers}/mlp/down"),
        *norm(f"{trunk}.norm", f"{image}/norm"),
        rule(f"{pool}.latent", f"{head}/probe"),
        *linear(f"{pool}.q", f"{head}/attn/query"),
        *_fused(f"{pool}.kv", kv),
        *linear(f"{pool}.proj", f"{head}/attn/out"),
        *norm(f"{pool}.norm", f"{head}/norm"),
        *linear(f"{pool}.mlp.fc1", f"{head}/mlp/up"),
        *linear(f"{pool}.mlp.fc2", f"{head}/mlp/down"),
        *nest(text_rules(None), "text.", ""),
        *linear("text.text_projection", "text_proj"),
    ]


def _fused(name: str, parts: list[str]) -> list[Rule]:
    return [
        rule(f"{name}.weight", tuple(f"{part}/kernel" for part in parts), split(len(parts), transpose=True)),
        rule(f"{name}.bias", tuple(f"{part}/bias" for part in parts), split(len(parts), transpose=False)),
    ]


TABLE = Table("siglip", fields, config, rules, ignore=("*attn_mask",))
