"""Every published variant has exactly the parameters of its reference and of its publication."""

import functools
from collections.abc import Callable
from typing import Any

import pytest

from jvlm import models
from jvlm.core.tree import count
from tests.models import published_decoders, published_diffusion, published_multimodal
from tests.models_util import abstract
from tests.reference import torch, transformers
from tests.reference_open_clip import open_clip, open_clip_config

ALL = [(family, variant) for family, entry in models.MODELS.items() for variant in entry.variants]

# Counts as published: open_clip's model profiles, and the papers' tables to the digit where a release fixes it.
PUBLISHED = {
    ("clip", "ViT-B/32"): 151_277_313,
    ("clip", "ViT-B/16"): 149_620_737,
    ("clip", "ViT-L/14"): 427_616_513,
    ("clip", "ViT-L/14@336"): 427_944_193,
    ("clip", "ViT-H/14"): 986_109_441,
    ("clip", "ViT-g/14"): 1_366_678_273,
    ("clip", "ViT-bigG/14"): 2_539_567_105,
    ("siglip", "B/16"): 203_155_970,
    ("siglip", "L/16"): 652_150_786,
    ("siglip", "So400m/14@384"): 877_960_498,
    ("vit", "Ti/16"): 5_717_416,
    ("vit", "S/16"): 22_050_664,
    ("vit", "S/32"): 22_878_952,
    ("vit", "B/16"): 86_567_656,
    ("vit", "B/32"): 88_224_232,
    ("vit", "L/16"): 304_326_632,
    ("vit", "L/32"): 306_535_400,
    ("vit", "H/14"): 632_045_800,
    ("bert", "base"): 109_482_240,
    ("bert", "base-cased"): 108_310_272,
    ("bert", "large"): 335_141_888,
    ("bert", "large-cased"): 333_579_264,
    **{("decoder", variant): count for variant, count in published_decoders.COUNTS.items()},
    **{("t5", variant): count for variant, count in published_decoders.T5_COUNTS.items()},
}

PUBLISHED |= published_multimodal.COUNTS | published_diffusion.COUNTS

OPEN_CLIP = {variant: variant.replace("/", "-").replace("@336", "-336") for variant in models.MODELS["clip"].variants}


def clip(variant: str) -> Any:
    return open_clip.CLIP(**open_clip_config(OPEN_CLIP[variant]))


def _shape(size: str) -> dict[str, Any]:
    """Published widths and depths, written out again so that a slip in ours shows."""
    width, depth, heads, mlp = {
        "Ti": (192, 12, 3, 768),
        "S": (384, 12, 6, 1536),
        "B": (768, 12, 12, 3072),
        "L": (1024, 24, 16, 4096),
        "H": (1280, 32, 16, 5120),
        "So400m": (1152, 27, 16, 4304),
        "g": (1408, 40, 16, 6144),
        "G": (1664, 48, 16, 8192),
        "g-opt": (1536, 40, 16, 6144),
    }[size]
    return dict(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=mlp)


def siglip(variant: str) -> Any:
    second = variant.startswith("2-")
    size, _, rest = variant.removeprefix("2-").partition("/")
    patch, _, resolution = rest.partition("@")
    default = {"L": 256, "g-opt": 256, "B": 256 if patch == "32" else 224}.get(size, 224)
    length = 16 if variant == "So400m/14" else 64
    text = dict(_shape("So400m" if size == "g-opt" else size), vocab_size=256_000 if second else 32_000)
    text |= dict(max_position_embeddings=length, projection_size=_shape(size)["hidden_size"])
    vision = dict(_shape(size), patch_size=int(patch), image_size=int(resolution or default))
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))


def vit(variant: str) -> Any:
    size, _, patch = variant.partition("/")
    labels: dict[str, Any] = dict(num_labels=1000)
    config = transformers.ViTConfig(**_shape(size), patch_size=int(patch), **labels)
    return transformers.ViTForImageClassification(config)


def bert(variant: str) -> Any:
    size, _, cased = variant.partition("-")
    shape = _shape(size[0].upper())
    return transformers.BertModel(transformers.BertConfig(**shape, vocab_size=28996 if cased else 30522))


def align(variant: str) -> Any:
    return transformers.AlignModel(transformers.AlignConfig())


REFERENCES: dict[str, Callable[[str], Any]] = {
    "align": align,
    "bert": bert,
    "bert-decoder": published_decoders.bert_decoder,
    "clip": clip,
    "decoder": published_decoders.decoder,
    "siglip": siglip,
    "t5": published_decoders.t5,
    "vit": vit,
}


REFERENCES |= published_multimodal.REFERENCES | published_diffusion.REFERENCES


@functools.cache
def parameters(family: str, variant: str) -> int:
    shapes, _ = abstract(models.create(dict(family=family, variant=variant)))
    return count(shapes["params"])


@pytest.mark.parametrize(("family", "variant"), ALL)
def test_parameter_count_is_the_reference_s(family: str, variant: str) -> None:
    with torch.device("meta"):
        reference = REFERENCES[family](variant)
    assert parameters(family, variant) == sum(p.numel() for p in reference.parameters())


@pytest.mark.parametrize(("family", "variant"), PUBLISHED)
def test_parameter_count_is_the_published_one(family: str, variant: str) -> None:
    assert parameters(family, variant) == PUBLISHED[family, variant]


def test_every_family_has_a_reference() -> None:
    assert REFERENCES.keys() == models.MODELS.keys()
