"""Reference models of the published multimodal sizes, written out again so that a slip in ours shows."""

from collections.abc import Callable
from typing import Any

from tests.reference import torch, transformers

# width, depth, heads, key heads, hidden units
VICUNA = {"7b": (4096, 32, 32, 32, 11008), "13b": (5120, 40, 40, 40, 13824)}
MISTRAL = (4096, 32, 32, 8, 14336)


def _llama(shape: tuple[int, ...], vocab: int) -> Any:
    width, depth, heads, key_heads, hidden = shape
    return transformers.LlamaConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, num_key_value_heads=key_heads,
        intermediate_size=hidden, vocab_size=vocab,
    )  # fmt: skip


def _clip(image_size: int) -> Any:
    return transformers.CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14,
        image_size=image_size,
    )  # fmt: skip


def llava(variant: str) -> Any:
    """The transformers model of a published LLaVA."""
    first, tiles = variant == "7b", variant.startswith("next")
    shape = MISTRAL if "mistral" in variant else VICUNA[variant.rpartition("-")[2]]
    kind = "LlavaNext" if tiles else "Llava"
    parts: dict[str, Any] = dict(
        vision_config=_clip(224 if first else 336), text_config=_llama(shape, 32003 if first else 32064)
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(getattr(transformers, f"{kind}Config")(**parts))
    if first:  # one linear layer
        model.model.multi_modal_projector.linear_2 = torch.nn.Identity()
    return model


REFERENCES: dict[str, Callable[[str], Any]] = {"llava": llava}

# Sums over the published safetensors files.
COUNTS = {
    ("llava", "1.5-7b"): 7_063_427_072,
    ("llava", "next-vicuna-7b"): 7_063_431_168,
    ("llava", "next-mistral-7b"): 7_566_747_648,
}
