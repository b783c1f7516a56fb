"""`transformers.PaliGemmaForConditionalGeneration` directories."""

from typing import Any

from jvlm.core.mapping import Rule, nest
from jvlm.interop.hf import parts, siglip
from jvlm.interop.hf.blocks import linear
from jvlm.interop.hf.llava import IGNORE, RENAMES
from jvlm.interop.table import Config, Table, require
from jvlm.models.vision_language import VisionLanguage

# What transformers assumes where a published config.json is silent.
_VISION: dict[str, Any] = dict(
    hidden_size=1152,
    intermediate_size=4304,
    num_hidden_layers=27,
    num_attention_heads=16,
    image_size=224,
    patch_size=14,
    vision_use_head=False,
)
_TEXT: dict[str, Any] = dict(
    hidden_size=2048,
    num_hidden_layers=18,
    intermediate_size=16384,
    num_attention_heads=8,
    num_key_value_heads=1,
    vocab_size=257_152,
)


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.paligemma` from a PaliGemmaConfig."""
    text = dict(config.get("text_config") or _TEXT)
    # The first releases leave it unset, and mean it.
    require(text, "use_bidirectional_attention", None, True)
    text.pop("use_bidirectional_attention", None)
    return dict(
        image=siglip.vision_fields({"vision_use_head": False, **(config.get("vision_config") or _VISION)}),
        text=parts.language(text, "gemma").fields(text),
        image_token=config.get("image_token_id", config.get("image_token_index", 256_000)),
    )


def config(model: VisionLanguage) -> dict[str, Any]:
    """PaliGemmaConfig of a model."""
    tower, text = model.image_tower, model.text_tower
    return dict(
        architectures=["PaliGemmaForConditionalGeneration"],
        model_type="paligemma",
        vision_config=siglip.vision_config(tower),
        text_config=dict(parts.language_of(text).config(text), use_bidirectional_attention=True),
        image_token_index=model.image_token,
        projection_dim=text.width,
        hidden_size=text.width,
        tie_word_embeddings=text.tied,
    )


def rules(model: VisionLanguage) -> list[Rule]:
    """The tensor table."""
    tower, text = model.image_tower, model.text_tower
    return [
        *nest(siglip.vision_rules(tower), "vision_tower.", "image_tower/"),
        *linear("multi_modal_projector.linear", "bridge/fc1"),
        *nest(parts.language_of(text).rules(text), "language_model.", "text_tower/"),
    ]


TABLE = Table("paligemma", fields, config, rules, ignore=IGNORE, renames=RENAMES)
