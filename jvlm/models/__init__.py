"""Every family, by name. A new line here is reached by the command line and by the shared property tests at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flax import linen as nn

from jvlm.core import build
from jvlm.models import (
    align,
    autoencoder,
    bert,
    bert_decoder,
    blip2,
    blip2_pretrain,
    clip,
    clip_text,
    decoder,
    flamingo,
    latent_diffusion,
    llava,
    paligemma,
    siglip,
    t5,
    unet,
    vit,
    vq,
)


@dataclass(frozen=True)
class Family:
    """How to build a family: `create(**fields)`, its published `variants`, and a `tiny` one for tests.

    `inputs` names what the model's call takes: `image` and `tokens`, each read from `fields`' towers.
    """

    create: Callable[..., nn.Module]
    variants: Mapping[str, Mapping[str, Any]]
    tiny: Mapping[str, Any]
    inputs: tuple[str, ...]


MODELS: dict[str, Family] = {
    "align": Family(align.align, align.VARIANTS, align.TINY, ("image", "tokens")),
    "autoencoder": Family(autoencoder.autoencoder, autoencoder.VARIANTS, autoencoder.TINY, ("image",)),
    "bert": Family(bert.bert, bert.VARIANTS, bert.TINY, ("tokens",)),
    "bert-decoder": Family(bert_decoder.bert_decoder, bert_decoder.VARIANTS, bert_decoder.TINY, ("tokens",)),
    "blip2": Family(blip2.blip2, blip2.VARIANTS, blip2.TINY, ("image", "tokens")),
    "blip2-pretrain": Family(
        blip2_pretrain.blip2_pretrain, blip2_pretrain.VARIANTS, blip2_pretrain.TINY, ("image", "tokens")
    ),
    "clip": Family(clip.clip, clip.VARIANTS, clip.TINY, ("image", "tokens")),
    "clip-text": Family(clip_text.clip_text, clip_text.VARIANTS, clip_text.TINY, ("tokens",)),
    "decoder": Family(decoder.decoder, decoder.VARIANTS, decoder.TINY, ("tokens",)),
    "flamingo": Family(flamingo.flamingo, flamingo.VARIANTS, flamingo.TINY, ("image", "tokens")),
    "latent-diffusion": Family(
        latent_diffusion.latent_diffusion,
        latent_diffusion.VARIANTS,
        latent_diffusion.TINY,
        ("image", "tokens", "times"),
    ),
    "llava": Family(llava.llava, llava.VARIANTS, llava.TINY, ("image", "tokens")),
    "paligemma": Family(paligemma.paligemma, paligemma.VARIANTS, paligemma.TINY, ("image", "tokens")),
    "siglip": Family(siglip.siglip, siglip.VARIANTS, siglip.TINY, ("image", "tokens")),
    "t5": Family(t5.t5, t5.VARIANTS, t5.TINY, ("tokens", "targets")),
    "unet": Family(unet.unet, unet.VARIANTS, unet.TINY, ("x", "times", "context")),
    "vit": Family(
        vit.vit,
        vit.VARIANTS,
        dict(width=32, depth=2, num_heads=4, mlp_dim=48, patch_size=8, image_size=16, num_classes=5),
        ("image",),
    ),
    "vq": Family(vq.quantizing, vq.VARIANTS, vq.TINY, ("image",)),
}


def fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The full fields of a model from `{"family", "variant", **overrides}`, overrides merged key by key."""
    config = dict(config)
    family = build.lookup(MODELS, config.pop("family", "?"), "model family")
    variant = config.pop("variant", None)
    base = build.lookup(family.variants, variant, "model variant") if variant else {}
    return build.merge(base, config)


def create(config: Mapping[str, Any]) -> nn.Module:
    """The module of `{"family", "variant", **overrides}`. ConfigError names an unknown family, variant or field."""
    family = config.get("family", "?")
    return build.call(build.lookup(MODELS, family, "model family").create, fields(config), f"model {family!r}")
