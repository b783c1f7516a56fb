"""`diffusers.UNet2DConditionModel` and `UNet2DModel`."""

from typing import Any

from jvlm.core.bijections import TRANSPOSE
from jvlm.core.errors import UserError
from jvlm.core.mapping import Rule, nest, rule
from jvlm.interop.diffusers.blocks import (
    RENAMES,
    conv,
    known_only,
    per_level,
    residual,
    spatial_attention,
    spatial_transformer,
)
from jvlm.interop.hf.blocks import act_from, act_to, linear, norm
from jvlm.interop.table import Config, Table, single
from jvlm.models.unet import UNet

VERSION = "0.42.0"
# What diffusers assumes where a configuration is silent.
_SHARED: dict[str, Any] = dict(
    sample_size=None, center_input_sample=False, time_embedding_type="positional", time_embedding_dim=None,
    freq_shift=0, flip_sin_to_cos=True, layers_per_block=2, mid_block_scale_factor=1, downsample_padding=1, dropout=0.0,
    act_fn="silu", norm_num_groups=32, norm_eps=1e-5, resnet_time_scale_shift="default", class_embed_type=None,
    num_class_embeds=None, attention_head_dim=8,
)  # fmt: skip
_CONDITIONAL: dict[str, Any] = _SHARED | dict(
    in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=1280,
    down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    mid_block_type="UNetMidBlock2DCrossAttn", transformer_layers_per_block=1, num_attention_heads=None,
    use_linear_projection=False, addition_embed_type=None, addition_time_embed_dim=None,
    projection_class_embeddings_input_dim=None, time_cond_proj_dim=None, only_cross_attention=False,
)  # fmt: skip
_PIXEL: dict[str, Any] = _SHARED | dict(
    in_channels=3, out_channels=3, block_out_channels=(224, 448, 672, 896),
    down_block_types=("DownBlock2D",) + ("AttnDownBlock2D",) * 3,
    up_block_types=("AttnUpBlock2D",) * 3 + ("UpBlock2D",),
    mid_block_type="UNetMidBlock2D", add_attention=True,
)  # fmt: skip
# What jvlm's UNet does not have, by the values that leave it out.
_ABSENT_SHARED: dict[str, Any] = dict(
    center_input_sample=False, time_embedding_type="positional", time_embedding_dim=None, mid_block_scale_factor=1,
    class_embed_type=None,
)  # fmt: skip
_ABSENT = _ABSENT_SHARED | dict(
    num_attention_heads=None, encoder_hid_dim=None, encoder_hid_dim_type=None, dual_cross_attention=False,
    resnet_skip_time_act=False, resnet_out_scale_factor=1.0, time_embedding_act_fn=None, timestep_post_act=None,
    conv_in_kernel=3, conv_out_kernel=3, attention_type="default", class_embeddings_concat=False,
    cross_attention_norm=None, reverse_transformer_layers_per_block=None, mid_block_type="UNetMidBlock2DCrossAttn",
)  # fmt: skip
_ABSENT_PIXEL = _ABSENT_SHARED | dict(
    downsample_type="conv", upsample_type="conv", attn_norm_num_groups=None, resnet_time_scale_shift="default",
    mid_block_type="UNetMidBlock2D",
)  # fmt: skip


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.unet` from a configuration of `UNet2DConditionModel`."""
    c = _CONDITIONAL | dict(config)
    known_only(config, _ABSENT)
    levels = len(c["block_out_channels"])
    blocks = _blocks(c, "CrossAttn", levels)
    only = per_level(c["only_cross_attention"], levels)
    if any(only):
        raise UserError(f"config.json has only_cross_attention = {c['only_cross_attention']!r}; jvlm implements False")
    depths = per_level(c["transformer_layers_per_block"], levels)
    if any(not isinstance(depth, int) for depth in depths):
        raise UserError(f"config.json has transformer_layers_per_block = {list(depths)}; jvlm implements one a level")
    out = dict(
        _fields(c),
        depths=tuple(depth if crosses else 0 for depth, crosses in zip(depths, blocks, strict=True)),
        mid_depth=depths[-1],
        num_heads=per_level(c["attention_head_dim"], levels),
        context_dim=single(c["cross_attention_dim"], "cross_attention_dim"),
        linear_projection=c["use_linear_projection"],
        guidance_dim=c["time_cond_proj_dim"],
    )
    if c["addition_embed_type"] is not None:
        if c["addition_embed_type"] != "text_time":
            raise UserError(f"config.json has addition_embed_type = {c['addition_embed_type']!r}; jvlm has 'text_time'")
        out["size_dim"] = c["addition_time_embed_dim"]
        out["pooled_dim"] = c["projection_class_embeddings_input_dim"] - 6 * c["addition_time_embed_dim"]
    return out


def pixel_fields(config: Config) -> dict[str, Any]:
    """Fields of `models.unet` from a configuration of `UNet2DModel`."""
    c = _PIXEL | dict(config)
    known_only(config, _ABSENT_PIXEL)
    widths = c["block_out_channels"]
    blocks = _blocks(c, "Attn", len(widths))
    each = c["attention_head_dim"]
    return dict(
        _fields(c),
        depths=tuple(int(attends) for attends in blocks),
        mid_depth=int(c["add_attention"]),
        num_heads=tuple(1 if each is None else width // each for width in widths),
        context_dim=None,
    )


def _fields(c: dict[str, Any]) -> dict[str, Any]:
    if c["resnet_time_scale_shift"] not in ("default", "scale_shift"):
        raise UserError(f"config.json has resnet_time_scale_shift = {c['resnet_time_scale_shift']!r}, which jvlm lacks")
    levels = len(c["block_out_channels"])
    return dict(
        image_size=single(c["sample_size"] or 2**levels, "sample_size"),
        in_channels=c["in_channels"],
        out_channels=c["out_channels"],
        widths=tuple(c["block_out_channels"]),
        layers=single(c["layers_per_block"], "layers_per_block"),
        num_classes=c["num_class_embeds"],
        cosine_first=c["flip_sin_to_cos"],
        frequency_shift=float(c["freq_shift"]),
        down_padding=c["downsample_padding"],
        modulate=c["resnet_time_scale_shift"] == "scale_shift",
        groups=c["norm_num_groups"],
        eps=c["norm_eps"],
        act=act_from(c["act_fn"]),
        dropout=c["dropout"],
    )


def _blocks(c: dict[str, Any], kind: str, levels: int) -> list[bool]:
    """Which levels attend. The way up must mirror the way down."""
    down, up = list(c["down_block_types"]), list(c["up_block_types"])[::-1]
    names = {f"{kind}DownBlock2D": True, "DownBlock2D": False}
    for one, other in zip(down, up, strict=True):
        if one not in names or other != one.replace("Down", "Up"):
            raise UserError(f"config.json pairs the blocks {one!r} and {other!r}; jvlm implements {', '.join(names)}")
    if len(down) != levels:
        raise UserError(f"config.json has {len(down)} blocks and {levels} widths")
    return [names[name] for name in down]


def config(model: UNet) -> dict[str, Any]:
    """The configuration of either class, whichever the model is."""
    pixel = model.context_dim is None
    kind = "Attn" if pixel else "CrossAttn"
    down = [f"{kind}DownBlock2D" if depth else "DownBlock2D" for depth in model.depths]
    out = dict(
        _class_name="UNet2DModel" if pixel else "UNet2DConditionModel",
        _diffusers_version=VERSION,
        sample_size=model.image_size,
        in_channels=model.in_channels,
        out_channels=model.out_channels,
        block_out_channels=list(model.widths),
        layers_per_block=model.layers,
        down_block_types=down,
        up_block_types=[name.replace("Down", "Up") for name in reversed(down)],
        num_class_embeds=model.num_classes,
        flip_sin_to_cos=model.cosine_first,
        freq_shift=int(model.frequency_shift),
        downsample_padding=model.down_padding,
        resnet_time_scale_shift="scale_shift" if model.modulate else "default",
        norm_num_groups=model.groups,
        norm_eps=model.eps,
        act_fn=act_to(model.act),
        dropout=model.dropout,
    )
    if pixel:
        sizes = {width // heads for width, heads in zip(model.widths, model.num_heads, strict=True)}
        one = all(heads == 1 for heads in model.num_heads)
        if len(sizes) > 1 and not one:
            raise UserError("UNet2DModel has heads of one size, but the model's differ from level to level")
        return dict(
            out,
            mid_block_type="UNetMidBlock2D",
            add_attention=bool(model.mid_depth),
            attention_head_dim=None if one else sizes.pop(),
        )
    # A level without attention has a depth in the file as well; the last one's is the middle's.
    depths = [depth or 1 for depth in model.depths[:-1]] + [model.mid_depth]
    if model.depths[-1] not in (0, model.mid_depth):
        raise UserError("UNet2DConditionModel has a middle as deep as the last level; this model's differ")
    out |= dict(
        mid_block_type="UNetMidBlock2DCrossAttn",
        transformer_layers_per_block=depths[0] if len(set(depths)) == 1 else depths,
        attention_head_dim=list(model.num_heads),
        cross_attention_dim=model.context_dim,
        use_linear_projection=model.linear_projection,
        time_cond_proj_dim=model.guidance_dim,
    )
    if model.size_dim is not None and model.pooled_dim is not None:
        out |= dict(
            addition_embed_type="text_time",
            addition_time_embed_dim=model.size_dim,
            projection_class_embeddings_input_dim=model.pooled_dim + 6 * model.size_dim,
        )
    return out


def rules(model: UNet) -> list[Rule]:
    """The tensor table of either class."""
    out = [*conv("conv_in", "conv_in"), *_mlp("time_embedding", "time")]
    if model.guidance_dim is not None:
        out.append(rule("time_embedding.cond_proj.weight", "time/guidance/kernel", TRANSPOSE))
    if model.num_classes is not None:
        out.append(rule("class_embedding.weight", "classes/embedding"))
    if model.size_dim is not None:
        out += _mlp("add_embedding", "added")
    last, width_in = len(model.widths) - 1, model.widths[0]
    skips = [width_in]
    for level, width in enumerate(model.widths):
        block = f"down_blocks.{level}"
        for layer in range(model.layers):
            ours = f"down{level}_residual{layer}"
            out += residual(f"{block}.resnets.{layer}", ours, time=True, shortcut=width_in != width)
            out += _attention(
                model, model.depths[level], f"{block}.attentions.{layer}", f"down{level}_attention{layer}"
            )
            width_in = width
            skips.append(width)
        if level < last:
            out += conv(f"{block}.downsamplers.0.conv", f"down{level}_sample/conv")
            skips.append(width)
    for layer in range(2):
        out += residual(f"mid_block.resnets.{layer}", f"mid_residual{layer}", time=True, shortcut=False)
    out += _attention(model, model.mid_depth, "mid_block.attentions.0", "mid_attention")
    for level, width in reversed(list(enumerate(model.widths))):
        block = f"up_blocks.{last - level}"
        for layer in range(model.layers + 1):
            ours = f"up{level}_residual{layer}"
            shortcut = width_in + skips.pop() != width
            out += residual(f"{block}.resnets.{layer}", ours, time=True, shortcut=shortcut)
            out += _attention(model, model.depths[level], f"{block}.attentions.{layer}", f"up{level}_attention{layer}")
            width_in = width
        if level > 0:
            out += conv(f"{block}.upsamplers.0.conv", f"up{level}_sample/conv")
    return [*out, *norm("conv_norm_out", "norm_out"), *conv("conv_out", "conv_out")]


def _mlp(name: str, path: str) -> list[Rule]:
    return nest([*linear("linear_1", "up"), *linear("linear_2", "down")], f"{name}.", f"{path}/")


def _attention(model: UNet, depth: int, name: str, path: str) -> list[Rule]:
    if not depth:
        return []
    if model.context_dim is None:
        return spatial_attention(name, path)
    return spatial_transformer(name, path, model.linear_projection)


CONDITIONAL = Table("unet", fields, config, rules)
PIXEL = Table("unet", pixel_fields, config, rules, renames=RENAMES)
