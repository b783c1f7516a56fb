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


def blip2(variant: str) -> Any:
    """The transformers model of a published BLIP-2 or InstructBLIP."""
    if variant.startswith("opt"):
        width, depth, heads = {"opt-2.7b": (2560, 32, 32), "opt-6.7b": (4096, 32, 32)}[variant]
        text = transformers.OPTConfig(
            hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, ffn_dim=4 * width, vocab_size=50304,
            word_embed_proj_dim=width,
        )  # fmt: skip
        return transformers.Blip2ForConditionalGeneration(transformers.Blip2Config(text_config=text))
    text = _llama(VICUNA[variant.rpartition("-")[2]], 32064)
    config = transformers.InstructBlipConfig(text_config=text, qformer_config=dict(vocab_size=30523))
    return transformers.InstructBlipForConditionalGeneration(config)


def blip2_pretrain(variant: str) -> Any:
    """The transformers matcher, with the head for words and the temperature that its directory lacks."""
    config = transformers.Blip2Config(qformer_config=dict(vocab_size=30523, use_qformer_text_input=True))
    model = transformers.Blip2ForImageTextRetrieval(config)
    head = (torch.nn.Linear(768, 768), torch.nn.LayerNorm(768), torch.nn.ParameterList([torch.zeros(30523)]))
    model.words = torch.nn.ModuleList([*head, torch.nn.ParameterList([torch.zeros(1)])])
    return model


def paligemma(variant: str) -> Any:
    """The transformers model of a published PaliGemma."""
    vision = transformers.SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, patch_size=14,
        image_size=int(variant.rpartition("-")[2]), vision_use_head=False,
    )  # fmt: skip
    width, depth, heads, key_heads, hidden, head_dim = {
        "3b": (2048, 18, 8, 1, 16384, 256),
        "2-3b": (2304, 26, 8, 4, 9216, 256),
        "2-10b": (3584, 42, 16, 8, 14336, 256),
        "2-28b": (4608, 46, 32, 16, 36864, 128),
    }[variant.rpartition("-")[0]]
    kind = transformers.Gemma2Config if variant.startswith("2-") else transformers.GemmaConfig
    text = kind(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, num_key_value_heads=key_heads,
        intermediate_size=hidden, head_dim=head_dim, vocab_size=257_216,
    )  # fmt: skip
    config = transformers.PaliGemmaConfig(vision_config=vision, text_config=text, projection_dim=width)
    return transformers.PaliGemmaForConditionalGeneration(config)


def flamingo(variant: str) -> Any:
    """The transformers model of a published Idefics."""
    assert variant == "idefics-9b"
    readers = dict(resampler_n_latents=64, resampler_depth=6, resampler_n_heads=16, resampler_head_dim=96)
    config = transformers.IdeficsConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008, vocab_size=32000,
        additional_vocab_size=2, alpha_type="vector", cross_layer_interval=4, qk_layer_norms=True, use_resampler=True,
        vision_config=dict(
            embed_dim=1280, num_hidden_layers=32, num_attention_heads=16, intermediate_size=5120, patch_size=14,
            image_size=224,
        ),
        perceiver_config=dict(readers, qk_layer_norms_perceiver=True),
    )  # fmt: skip
    return transformers.IdeficsForVisionText2Text(config)


REFERENCES: dict[str, Callable[[str], Any]] = {
    "blip2": blip2,
    "blip2-pretrain": blip2_pretrain,
    "flamingo": flamingo,
    "llava": llava,
    "paligemma": paligemma,
}

# Sums over the published safetensors files.
COUNTS = {
    ("blip2", "opt-2.7b"): 3_744_761_856,
    ("llava", "1.5-7b"): 7_063_427_072,
    ("llava", "next-vicuna-7b"): 7_063_431_168,
    ("llava", "next-mistral-7b"): 7_566_747_648,
    ("paligemma", "3b-224"): 2_923_466_480,
}
