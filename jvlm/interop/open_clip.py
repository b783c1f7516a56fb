"""open_clip directories with ViT towers: `open_clip_config.json` and `open_clip_model.safetensors`."""

import math
from collections.abc import Mapping
from typing import Any

from jvlm.core.bijections import lead, patch, split
from jvlm.core.errors import UserError
from jvlm.core.mapping import Rule, rule
from jvlm.interop.hf.blocks import linear, norm
from jvlm.interop.table import Config, Table, single, size, unsize
from jvlm.models.dual_encoder import DualEncoder

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"

# What open_clip assumes where a configuration is silent, and so the only values of what jvlm does not implement.
BLOCK: dict[str, Any] = dict(
    ls_init_value=None,
    qk_norm=False,
    scaled_cosine_attn=False,
    scale_heads=False,
    scale_attn_inner=False,
    scale_attn=False,
    scale_fc=False,
)
_FIXED_VISION: dict[str, Any] = dict(BLOCK, timm_model_name=None, attentional_pool=False)
_FIXED_TEXT: dict[str, Any] = dict(BLOCK, hf_model_name=None, embed_cls=False, proj_bias=False, proj_type="linear")
_FIXED: dict[str, Any] = dict(multimodal_cfg=None, nonscalar_logit_scale=False)
_TEXT_POOLS = {"argmax": "highest", "eos": "eos", "first": "first", "last": "last"}
_IMAGE_POOLS = {"tok": "cls", "avg": "avg"}
_TANH = {"approximate": "tanh"}
_PREPROCESS: dict[str, Any] = dict(
    size=224,
    mode="RGB",
    mean=[0.48145466, 0.4578275, 0.40821073],
    std=[0.26862954, 0.26130258, 0.27577711],
    interpolation="bicubic",
    resize_mode="shortest",
    fill_color=0,
)


def refuse(config: Config, fixed: Mapping[str, Any], where: str) -> None:
    """UserError where `config` has another value than the only one that jvlm implements."""
    for key, value in fixed.items():
        if config.get(key, value) not in (value, None):
            raise UserError(f"{CONFIG} has {where}{key} = {config[key]!r}, which jvlm does not implement")


def _lookup(table: Mapping[str, str], value: Any, key: str) -> str:
    if value not in table:
        raise UserError(f"{CONFIG} has {key} = {value!r}; jvlm implements {', '.join(table)}")
    return table[value]


def _tower(c: Config, heads: int, quick: bool, where: str) -> dict[str, Any]:
    kwargs = c.get("act_kwargs") or {}
    if kwargs and (quick or dict(kwargs) != _TANH):
        raise UserError(f"{CONFIG} has {where}act_kwargs = {kwargs!r}; jvlm implements {_TANH}, without quick_gelu")
    norms = dict(c.get("norm_kwargs") or {})
    eps = norms.pop("eps", 1e-5)
    if norms:
        raise UserError(f"{CONFIG} has {where}norm_kwargs with {', '.join(norms)}; jvlm implements eps")
    width = c.get("width", 512)
    return dict(
        width=width,
        depth=c.get("layers", 12),
        num_heads=heads,
        mlp_dim=int(width * c.get("mlp_ratio", 4.0)),
        act="quick_gelu" if quick else "gelu_tanh" if kwargs else "gelu",
        eps=eps,
    )


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.clip` from open_clip_config.json. UserError names what is not implemented."""
    if "model_cfg" not in config:
        raise UserError(f"{CONFIG} has no model_cfg; copy it again")
    c = config["model_cfg"]
    text = dict(c["text_cfg"])
    vision = dict(width=768) | dict(c["vision_cfg"])
    refuse(c, _FIXED, "")
    refuse(text, _FIXED_TEXT, "text_cfg.")
    refuse(vision, _FIXED_VISION, "vision_cfg.")
    if not isinstance(vision.get("layers", 12), int):
        raise UserError(f"{CONFIG} has vision_cfg.layers = {vision['layers']}: a ResNet; jvlm implements ViT towers")
    quick = bool(c.get("quick_gelu", False))
    pool = _lookup(_IMAGE_POOLS, vision.get("pool_type", "tok"), "vision_cfg.pool_type")
    image = dict(
        _tower(vision, vision["width"] // vision.get("head_width", 64), quick, "vision_cfg."),
        patch_size=single(vision.get("patch_size", 16), "vision_cfg.patch_size"),
        image_size=size(vision.get("image_size", 224)),
        pool=pool,
        pre_norm=not vision.get("no_ln_pre", False),
        # The class token's norm may be taken before or after it is picked; a mean's may not.
        norm_tokens=pool == "avg" and not vision.get("final_ln_after_pool", False),
        patch_dropout=float(vision.get("patch_dropout", 0.0)),
    )
    return dict(
        embed_dim=c["embed_dim"],
        image=image,
        text=text_fields(text, quick),
        scale_init=math.exp(c.get("init_logit_scale", math.log(1 / 0.07))),
        bias_init=c.get("init_logit_bias"),
    )


def text_fields(text: Config, quick: bool) -> dict[str, Any]:
    """Fields of the text tower from `text_cfg`."""
    return dict(
        _tower(text, text.get("heads", 8), quick, "text_cfg."),
        vocab_size=text.get("vocab_size", 49408),
        length=text.get("context_length", 77),
        causal=not text.get("no_causal_mask", False),
        pool=_lookup(_TEXT_POOLS, text.get("pool_type", "argmax"), "text_cfg.pool_type"),
        eos_id=text.get("eos_id", 2),
    )


def preprocess(config: Config) -> dict[str, Any]:
    """The complete `preprocess_cfg` of open_clip_config.json: size, mode, mean, std, interpolation, resize_mode,
    fill_color. The size is the image tower's where it is not given.
    """
    vision = config["model_cfg"]["vision_cfg"]
    return _PREPROCESS | dict(size=vision.get("image_size", 224)) | dict(config.get("preprocess_cfg") or {})


def _ratio(width: int, mlp_dim: int) -> float:
    """A ratio from which open_clip, which truncates, computes `mlp_dim` again."""
    ratio = mlp_dim / width
    while int(width * ratio) < mlp_dim:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def _tower_cfg(tower: Any) -> dict[str, Any]:
    if tower.act not in ("gelu", "gelu_tanh", "quick_gelu"):
        raise UserError(f"open_clip has no activation {tower.act!r}; export to another format")
    return dict(
        width=tower.width,
        layers=tower.depth,
        mlp_ratio=_ratio(tower.width, tower.mlp_dim),
        norm_kwargs=dict(eps=tower.eps),
        act_kwargs=dict(_TANH) if tower.act == "gelu_tanh" else None,
    )


def _check(model: DualEncoder) -> None:
    """Raises UserError naming the first property that open_clip's CLIP does not have."""
    image: Any = model.image_tower
    text: Any = model.text_tower
    quick = [tower.act == "quick_gelu" for tower in (image, text)]
    wrong = {
        "no projection of the picture": model.image_proj is None,
        "a projection with a bias": any(getattr(p, "use_bias", False) for p in (model.image_proj, model.text_proj)),
        "a temperature that divides": model.divide,
        "a patch embedding with a bias": image.patch_bias,
        "no class token": not image.class_token,
        "fixed positions": image.posemb != "learned",
        f"the image pooling {image.pool!r}": image.pool not in _IMAGE_POOLS.values(),
        "no biases in attention": not image.qkv_bias,
        "quick_gelu in one tower only": any(quick) and not all(quick),
    }
    for what, present in wrong.items():
        if present:
            raise UserError(f"open_clip's CLIP cannot have {what}; export to another format")


def config(model: DualEncoder) -> dict[str, Any]:
    """open_clip_config.json of a model, with the default `preprocess_cfg` at its image size.

    Raises UserError for a model that open_clip's CLIP cannot express.
    """
    _check(model)
    image: Any = model.image_tower
    vision_cfg = dict(
        _tower_cfg(image),
        head_width=image.width // image.num_heads,
        patch_size=image.patch_size,
        image_size=unsize(image.image_size),
        patch_dropout=image.patch_dropout,
        no_ln_pre=not image.pre_norm,
        pool_type=next(theirs for theirs, ours in _IMAGE_POOLS.items() if ours == image.pool),
        final_ln_after_pool=image.pool == "avg" and not image.norm_tokens,
    )
    model_cfg = dict(
        embed_dim=model.text_proj.features,
        quick_gelu=image.act == "quick_gelu",
        init_logit_scale=math.log(model.scale_init),
        vision_cfg=vision_cfg,
        text_cfg=text_config(model.text_tower),
    )
    if model.bias_init is not None:
        model_cfg["init_logit_bias"] = model.bias_init
    return dict(model_cfg=model_cfg, preprocess_cfg=_PREPROCESS | dict(size=vision_cfg["image_size"]))


def text_config(text: Any) -> dict[str, Any]:
    """`text_cfg` of a text tower."""
    return dict(
        _tower_cfg(text),
        heads=text.num_heads,
        vocab_size=text.vocab_size,
        context_length=text.length,
        no_causal_mask=not text.causal,
        pool_type=next(theirs for theirs, ours in _TEXT_POOLS.items() if ours == text.pool),
        eos_id=text.eos_id,
    )


def _blocks(name: str, path: str) -> list[Rule]:
    layer, ours = f"{name}.resblocks.{{}}", f"{path}/layers"
    qkv = tuple(f"{ours}/attn/{part}" for part in ("query", "key", "value"))
    return [
        *norm(f"{layer}.ln_1", f"{ours}/norm_attn"),
        *norm(f"{layer}.ln_2", f"{ours}/norm_mlp"),
        rule(f"{layer}.attn.in_proj_weight", tuple(f"{x}/kernel" for x in qkv), split(3, transpose=True)),
        rule(f"{layer}.attn.in_proj_bias", tuple(f"{x}/bias" for x in qkv), split(3, transpose=False)),
        *linear(f"{layer}.attn.out_proj", f"{ours}/attn/out"),
        *linear(f"{layer}.mlp.c_fc", f"{ours}/mlp/up"),
        *linear(f"{layer}.mlp.c_proj", f"{ours}/mlp/down"),
    ]


def rules(model: DualEncoder) -> list[Rule]:
    """The tensor table of open_clip's CLIP; both projections are stored as they are multiplied."""
    image: Any = model.image_tower
    return [
        rule("logit_scale", "logit_scale"),
        *([] if model.bias_init is None else [rule("logit_bias", "logit_bias")]),
        rule("visual.conv1.weight", "image_tower/patches/proj/kernel", patch(image.patch_size)),
        rule("visual.class_embedding", "image_tower/class_token", lead(2)),
        rule("visual.positional_embedding", "image_tower/pos_embed", lead(1)),
        *(norm("visual.ln_pre", "image_tower/norm_pre") if image.pre_norm else []),
        *_blocks("visual.transformer", "image_tower/blocks"),
        *norm("visual.ln_post", "image_tower/norm"),
        rule("visual.proj", "image_proj/kernel"),
        *text_rules(),
    ]


def text_rules(projection: str | None = "text_proj/kernel") -> list[Rule]:
    """The text tower and its `projection`, None where it has none."""
    out = [
        rule("token_embedding.weight", "text_tower/token_embed/embedding"),
        rule("positional_embedding", "text_tower/pos_embed"),
        *_blocks("transformer", "text_tower/blocks"),
        *norm("ln_final", "text_tower/norm"),
    ]
    return out if projection is None else [*out, rule("text_projection", projection)]


# A model with `custom_text` keeps its text tower below `text.`; what it computes is the same.
TABLE = Table("clip", fields, config, rules, ignore=("*attn_mask",), renames=((r"^text\.", ""),))
