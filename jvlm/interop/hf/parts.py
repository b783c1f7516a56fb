"""The vision towers and language models that multimodal directories hold, by the `model_type` of their part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jvlm.core.build import lookup
from jvlm.core.mapping import Rule
from jvlm.interop.hf import clip, decoders, gpt2, opt, siglip
from jvlm.interop.table import Config, Table
from jvlm.models.decoder import Decoder
from jvlm.models.vit import ViT


@dataclass(frozen=True)
class Vision:
    """A vision tower without a head: fields of a `ViT` (`kind` names what they are over), the inverse, the tensors."""

    kind: str
    fields: Callable[[Config], dict[str, Any]]
    config: Callable[[ViT], dict[str, Any]]
    rules: Callable[[ViT], Sequence[Rule]]


VISION: dict[str, Vision] = {
    "clip_vision_model": Vision("clip", clip.vision_fields, clip.vision_config, clip.vision_rules),
    "siglip_vision_model": Vision("siglip", siglip.vision_fields, siglip.vision_config, siglip.vision_rules),
}
LANGUAGE: dict[str, Table] = {**decoders.TABLES, "opt": opt.TABLE, "gpt2": gpt2.TABLE}


def vision(config: Config, default: str) -> Vision:
    """The vision tower of a part's configuration."""
    return lookup(VISION, config.get("model_type", default), "vision tower")


def vision_of(tower: ViT) -> Vision:
    """The vision tower that ours is."""
    return VISION["clip_vision_model" if tower.pre_norm else "siglip_vision_model"]


def language(config: Config, default: str) -> Table:
    """The table of a part's configuration."""
    return lookup(LANGUAGE, config.get("model_type", default), "language model")


def language_of(model: Decoder) -> Table:
    """The table of a format that holds our decoder; Mistral without a window is a Llama."""
    if model.rope is None:
        return LANGUAGE["opt" if model.position_offset else "gpt2"]
    if model.norm_offset:
        return LANGUAGE["gemma2" if model.place == "both" else "gemma"]
    if model.qkv_bias and not model.out_bias:
        return LANGUAGE["qwen2"]
    return LANGUAGE["llama" if model.window is None else "mistral"]
