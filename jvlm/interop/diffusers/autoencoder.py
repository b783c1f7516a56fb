"""`diffusers.AutoencoderKL` and `VQModel`."""

from typing import Any

import numpy as np

from jvlm.core.bijections import Bijection
from jvlm.core.mapping import Rule, rule
from jvlm.interop.diffusers.blocks import RENAMES, conv, known_only, pointwise, residual, spatial_attention
from jvlm.interop.diffusers.unet import VERSION
from jvlm.interop.hf.blocks import act_from, act_to, norm
from jvlm.interop.table import Config, Table, single
from jvlm.models.autoencoder import Autoencoder
from jvlm.models.vq import Quantizing

_DEFAULTS: dict[str, Any] = dict(
    in_channels=3, out_channels=3, block_out_channels=(64,), layers_per_block=1, act_fn="silu", norm_num_groups=32,
    scaling_factor=0.18215, sample_size=32, mid_block_add_attention=True,
)  # fmt: skip
_GAUSSIAN: dict[str, Any] = _DEFAULTS | dict(
    latent_channels=4, shift_factor=None, use_quant_conv=True, use_post_quant_conv=True
)
_CODEBOOK = "quantize.embedding.weight"
_AVERAGED = tuple(f"codebooks/{name}" for name in ("vectors", "counts", "sums"))
# The words alone are published: their averages start as if every word had been seen once.
_STARTED = Bijection("started", lambda x: (x, np.ones(len(x), x.dtype), x), lambda vectors, *averages: vectors)
_QUANTIZED: dict[str, Any] = _DEFAULTS | dict(latent_channels=3, num_vq_embeddings=256, vq_embed_dim=None)


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.autoencoder` from a configuration of `AutoencoderKL`."""
    c = _GAUSSIAN | dict(config)
    known_only(config, dict(latents_mean=None, latents_std=None))
    return dict(
        _fields(c),
        latent_channels=c["latent_channels"],
        quant=c["use_quant_conv"],
        post_quant=c["use_post_quant_conv"],
        shift=float(c["shift_factor"] or 0.0),
    )


def vq_fields(config: Config) -> dict[str, Any]:
    """Fields of `models.vq` from a configuration of `VQModel`."""
    c = _QUANTIZED | dict(config)
    known_only(config, dict(norm_type="group", lookup_from_codebook=False))
    return dict(
        _fields(c),
        latent_channels=c["latent_channels"],
        vocab_size=c["num_vq_embeddings"],
        code_dim=c["vq_embed_dim"] or c["latent_channels"],
    )


def _fields(c: dict[str, Any]) -> dict[str, Any]:
    levels = len(c["block_out_channels"])
    down, up = ["DownEncoderBlock2D"] * levels, ["UpDecoderBlock2D"] * levels
    known_only(c, dict(down_block_types=down, up_block_types=up, out_channels=c["in_channels"]))
    return dict(
        image_size=single(c["sample_size"], "sample_size"),
        channels=c["in_channels"],
        widths=tuple(c["block_out_channels"]),
        layers=c["layers_per_block"],
        attend=c["mid_block_add_attention"],
        scaling=c["scaling_factor"],
        groups=c["norm_num_groups"],
        act=act_from(c["act_fn"]),
    )


def config(model: Autoencoder) -> dict[str, Any]:
    """Configuration of `AutoencoderKL`."""
    return dict(
        _config(model),
        _class_name="AutoencoderKL",
        shift_factor=model.shift or None,
        use_quant_conv=model.quant,
        use_post_quant_conv=model.post_quant,
    )


def vq_config(model: Quantizing) -> dict[str, Any]:
    """Configuration of `VQModel`."""
    own = dict(num_vq_embeddings=model.vocab_size, vq_embed_dim=model.code_dim)
    return dict(_config(model), _class_name="VQModel", **own)


def _config(model: Any) -> dict[str, Any]:
    levels = len(model.widths)
    return dict(
        _diffusers_version=VERSION,
        sample_size=model.image_size,
        in_channels=model.channels,
        out_channels=model.channels,
        latent_channels=model.latent_channels,
        block_out_channels=list(model.widths),
        layers_per_block=model.layers,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        mid_block_add_attention=model.attend,
        scaling_factor=model.scaling,
        norm_num_groups=model.groups,
        act_fn=act_to(model.act),
    )


def rules(model: Autoencoder) -> list[Rule]:
    """The tensor table of `AutoencoderKL`."""
    out = [*_coder(model, "encoder", decodes=False), *_coder(model, "decoder", decodes=True)]
    if model.quant:
        out += pointwise("quant_conv", "quant_proj")
    return [*out, *pointwise("post_quant_conv", "post_quant_proj")] if model.post_quant else out


def vq_rules(model: Quantizing) -> list[Rule]:
    """The tensor table of `VQModel`."""
    return [
        *_coder(model, "encoder", decodes=False),
        *_coder(model, "decoder", decodes=True),
        *pointwise("quant_conv", "quant_proj"),
        *pointwise("post_quant_conv", "post_quant_proj"),
        rule(_CODEBOOK, _AVERAGED, _STARTED) if model.averaged else rule(_CODEBOOK, "codebook"),
    ]


def _coder(model: Any, half: str, decodes: bool) -> list[Rule]:
    levels = list(enumerate(model.widths))
    if decodes:
        levels.reverse()
    out = conv(f"{half}.conv_in", f"{half}/conv_in")
    width_in = levels[0][1]
    for place, (level, width) in enumerate(levels):
        block, ours = f"{half}.{'up' if decodes else 'down'}_blocks.{place}", f"{half}/level{level}"
        for layer in range(model.layers + decodes):
            shortcut = width_in != width
            out += residual(f"{block}.resnets.{layer}", f"{ours}_residual{layer}", time=False, shortcut=shortcut)
            width_in = width
        if place < len(levels) - 1:
            out += conv(f"{block}.{'up' if decodes else 'down'}samplers.0.conv", f"{ours}_sample/conv")
    for layer in range(2):
        name, path = f"{half}.mid_block.resnets.{layer}", f"{half}/mid_residual{layer}"
        out += residual(name, path, time=False, shortcut=False)
    if model.attend:
        out += spatial_attention(f"{half}.mid_block.attentions.0", f"{half}/mid_attention")
    return [*out, *norm(f"{half}.conv_norm_out", f"{half}/norm_out"), *conv(f"{half}.conv_out", f"{half}/conv_out")]


GAUSSIAN = Table("autoencoder", fields, config, rules, renames=RENAMES)
QUANTIZED = Table("vq", vq_fields, vq_config, vq_rules, renames=RENAMES)
