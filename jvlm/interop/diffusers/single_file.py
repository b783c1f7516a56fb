"""Single-file checkpoints of Stable Diffusion 1.x, 2.x and SDXL, as they were trained: read, never written.

Their tensor names are those of the original training code. The tables of diffusers' components are renamed to them, so
nothing else of a component is said twice.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jvlm import models
from jvlm.core.bijections import POINTWISE, TRANSPOSE
from jvlm.core.errors import UserError
from jvlm.core.mapping import Rule, nest
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.tokenizers import Tokenizer, clip_tokenizer, tokenizer_from_files
from jvlm.interop import open_clip
from jvlm.interop.diffusers import autoencoder, unet
from jvlm.interop.hf.clip_text import TABLE as TEXT
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.safetensors import SafetensorsReader
from jvlm.interop.weights import Placement, read_variables
from jvlm.models.latent_diffusion import LatentDiffusion
from jvlm.models.unet import UNet

Names = Mapping[str, str]
_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_TEXT, _TEXTS = "cond_stage_model.transformer.text_model.", "conditioner.embedders."
_OPEN_TEXT = "cond_stage_model.model."
_VARIANTS = {_TEXT: "sd-1.5", _OPEN_TEXT: "sd-2.1", _TEXTS: "sdxl"}
# How far the release of 2.x at 512 pixels was trained, which is all that tells a file of it from those at 768.
_BASE_STEPS = 875_000
_IGNORE = (
    "*position_ids", "model_ema.*", "betas", "alphas_cumprod*", "sqrt_*", "log_one_minus_*", "posterior_*", "logvar",
    "denoiser.*", "*.logit_scale", "*attn_mask", "global_step",
)  # fmt: skip
_RESIDUAL = dict(
    norm1="in_layers.0", conv1="in_layers.2", time_emb_proj="emb_layers.1", norm2="out_layers.0", conv2="out_layers.3",
    conv_shortcut="skip_connection",
)  # fmt: skip
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_AROUND = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def load(path: Path, *, dtype: Any | None = None, placement: Placement | None = None) -> Pretrained:
    """The model in the file `path`. UserError for one that is none of SD 1.x, 2.x and SDXL, or lacks a tensor.

    A file of 2.x predicts v at 768 pixels unless its `global_step` is that of the release at 512, which predicts noise:
    what the file does not say is as diffusers takes it.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a .safetensors file of Stable Diffusion 1.x, 2.x or SDXL")
    reader = SafetensorsReader(path.parent, path.name)
    names = set(reader.names())
    first = _UNET + "input_blocks.0.0.weight"
    variant = next((name for key, name in _VARIANTS.items() if _any(names, key)), None)
    if first not in names or variant is None:
        raise UserError(f"{path} holds no Stable Diffusion 1.x, 2.x or SDXL; give such a file or a diffusers directory")
    # An inpainting model sees a mask and a hidden picture, too.
    config: dict[str, Any] = dict(family="latent-diffusion", variant=variant)
    config["unet"] = dict(in_channels=reader.shape(first)[1])
    if variant == "sd-2.1" and "global_step" in names and int(reader.read("global_step")) == _BASE_STEPS:
        config["unet"]["image_size"] = 64
        config["schedule"] = dict(prediction="epsilon")
    config = {"family": config["family"], **models.fields(config)}
    model: Any = models.create(config)
    second = variant == "sd-2.1"
    ignore = (*_IGNORE, *_unused(model)) if second else _IGNORE
    variables = read_variables(model, rules(model, open_text=second), reader, dtype, placement, ignore)
    tokenizer = _padded_with_zeros() if second else clip_tokenizer()
    processor = Processor(None, TextSpec(length=model.length, pad_id=tokenizer.pad_id), tokenizer)
    return Pretrained(model, variables["params"], {}, config, processor, {})


def _any(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _unused(model: LatentDiffusion) -> tuple[str, ...]:
    """What OpenCLIP's text tower has beyond the layers that a model listens to: the last, and the projection."""
    return f"{_OPEN_TEXT}transformer.resblocks.{model.text.text_tower.depth}.*", f"{_OPEN_TEXT}text_projection"


def _padded_with_zeros() -> Tokenizer:
    """CLIP's tokenizer as SD 2.x is released with it: token 0, `!`, fills up a text."""
    words = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>", pad_token="!")
    config = dict(words, tokenizer_class="CLIPTokenizer", model_max_length=77)
    return tokenizer_from_files(
        {**clip_tokenizer().to_files(), "tokenizer_config.json": json.dumps(config, indent=2).encode()}
    )


def rules(model: LatentDiffusion, open_text: bool = False) -> list[Rule]:
    """The tensor table of the whole file; `open_text` where the one text tower is OpenCLIP's."""
    vae = [_of_one_pixel(r) for r in autoencoder.rules(model.vae)]
    out = [
        *nest(original_rules(model.unet), _UNET, "unet/"),
        *nest(_renamed(vae, vae_names(len(model.vae.widths), model.vae.layers)), _VAE, "vae/"),
    ]
    if open_text:
        return [*out, *nest(open_clip.text_rules(None), _OPEN_TEXT, "text/")]
    if model.text_2 is None:
        return [*out, *nest(TEXT.rules(model.text), _TEXT, "text/")]
    second = open_clip.text_rules("proj/kernel")
    return [
        *out,
        *nest(TEXT.rules(model.text), _TEXTS + "0.transformer.text_model.", "text/"),
        *nest(second, _TEXTS + "1.model.", "text_2/"),
    ]


def original_rules(model: UNet) -> list[Rule]:
    """The tensor table of a conditional UNet under the names of the original training code, in the same order."""
    return _renamed(unet.rules(model), unet_names(model))


def _of_one_pixel(r: Rule) -> Rule:
    """The autoencoder's attention is stored as convolutions of one pixel."""
    return replace(r, fn=POINTWISE) if r.fn is TRANSPOSE else r


def _renamed(rules: Iterable[Rule], names: Names) -> list[Rule]:
    """Rules whose names begin with the longest key of `names` that they did begin with, replaced."""

    def new(name: str) -> str:
        old = max((key for key in names if name.startswith(key + ".")), key=len, default=None)
        return name if old is None else names[old] + name[len(old) :]

    return [replace(r, name=new(r.name)) for r in rules]


def unet_names(model: UNet) -> dict[str, str]:
    """diffusers' prefix of every part of a conditional UNet to the file's."""
    out, last = dict(_AROUND), len(model.widths) - 1
    count = 1
    for level in range(last + 1):
        block = f"down_blocks.{level}"
        for layer in range(model.layers):
            out |= _inside(f"{block}.resnets.{layer}", f"input_blocks.{count}.0", _RESIDUAL)
            out[f"{block}.attentions.{layer}"] = f"input_blocks.{count}.1"
            count += 1
        out[f"{block}.downsamplers.0.conv"] = f"input_blocks.{count}.0.op"
        count += 1
    for at, part in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        inside = _RESIDUAL if part.startswith("resnets") else {}
        out |= _inside(f"mid_block.{part}", f"middle_block.{at}", inside)
    for at in range(last + 1):
        for layer in range(model.layers + 1):
            theirs = f"output_blocks.{at * (model.layers + 1) + layer}"
            out |= _inside(f"up_blocks.{at}.resnets.{layer}", f"{theirs}.0", _RESIDUAL)
            out[f"up_blocks.{at}.attentions.{layer}"] = f"{theirs}.1"
        # The change of resolution is the last part of the level's last block.
        place = 2 if model.depths[last - at] else 1
        out[f"up_blocks.{at}.upsamplers.0.conv"] = f"{theirs}.{place}.conv"
    return out


def vae_names(levels: int, layers: int) -> dict[str, str]:
    """diffusers' prefix of every part of an autoencoder to the file's."""
    out: dict[str, str] = {}
    for half, way in (("encoder", "down"), ("decoder", "up")):
        for at, theirs in _levels(levels, way):
            block, old = f"{half}.{way}_blocks.{at}", f"{half}.{way}.{theirs}"
            for layer in range(layers + 1):
                out |= _inside(f"{block}.resnets.{layer}", f"{old}.block.{layer}", dict(conv_shortcut="nin_shortcut"))
            out[f"{block}.{way}samplers.0"] = f"{old}.{way}sample"
        for at in range(2):
            out[f"{half}.mid_block.resnets.{at}"] = f"{half}.mid.block_{at + 1}"
        out |= _inside(f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1", _ATTENTION)
        out[f"{half}.conv_norm_out"] = f"{half}.norm_out"
    return out


def _levels(count: int, way: str) -> Iterator[tuple[int, int]]:
    """(diffusers' number, the file's) of each level: the way up is counted from the picture's end there."""
    return ((at, at if way == "down" else count - 1 - at) for at in range(count))


def _inside(name: str, old: str, parts: Names) -> dict[str, str]:
    """A part with what is renamed in it."""
    return {name: old} | {f"{name}.{part}": f"{old}.{theirs}" for part, theirs in parts.items()}
