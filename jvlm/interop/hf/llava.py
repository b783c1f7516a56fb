"""`transformers.LlavaForConditionalGeneration` and `LlavaNextForConditionalGeneration` directories."""

from typing import Any

from jvlm.core.errors import UserError
from jvlm.core.mapping import Rule, nest, rule
from jvlm.interop.hf import parts
from jvlm.interop.hf.blocks import act_from, act_to, linear
from jvlm.interop.table import Config, Table, require
from jvlm.models.llava import PINPOINTS
from jvlm.models.vision_language import VisionLanguage

# What transformers assumes where a published config.json is silent.
_VISION: dict[str, Any] = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
)  # fmt: skip
_DEFAULTS: dict[str, Any] = dict(
    image_token_index=32000,
    projector_hidden_act="gelu",
    vision_feature_select_strategy="default",
    vision_feature_layer=-2,
    multimodal_projector_bias=True,
)


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.llava` from a LlavaConfig."""
    c = _DEFAULTS | dict(config)
    vision = dict(c.get("vision_config") or _VISION)
    text = dict(c.get("text_config") or {})
    if c.get("tie_word_embeddings"):
        text["tie_word_embeddings"] = True
    tower, layers = parts.vision(vision, "clip_vision_model"), c["vision_feature_layer"]
    # The default strategy cuts the first token: without a class token, a patch.
    require(c, "vision_feature_select_strategy", "full", *(["default"] if tower.kind == "clip" else []))
    return dict(
        image=dict(tower.fields(vision), kind=tower.kind),
        text=parts.language(text, "llama").fields(text),
        image_token=c.get("image_token_id", c["image_token_index"]),
        projector=dict(depth=2, act=act_from(c["projector_hidden_act"]), use_bias=c["multimodal_projector_bias"]),
        layers=[layers] if isinstance(layers, int) else list(layers),
        class_token=c["vision_feature_select_strategy"] == "full",
    )


def next_fields(config: Config) -> dict[str, Any]:
    """Fields of `models.llava` from a LlavaNextConfig."""
    sizes = config.get("image_grid_pinpoints") or PINPOINTS
    return dict(fields(config), tiles=[[int(height), int(width)] for height, width in sizes])


def config(model: VisionLanguage) -> dict[str, Any]:
    """LlavaConfig of a model."""
    layers, tower, text = model.layers or (-1,), model.image_tower, model.text_tower
    if model.bridge.depth != 2:
        raise UserError("LLaVA 1.0's single projection has no transformers format; use projector.depth 2")
    if model.bridge.merge != 1:
        raise UserError("merged patches have no transformers format of LLaVA's; use projector.merge 1")
    return dict(
        architectures=["LlavaForConditionalGeneration"],
        model_type="llava",
        vision_config=parts.vision_of(tower).config(tower),
        text_config=parts.language_of(text).config(text),
        image_token_index=model.image_token,
        image_seq_length=model.image_tokens(),
        projector_hidden_act=act_to(model.bridge.act),
        multimodal_projector_bias=model.bridge.use_bias,
        vision_feature_layer=layers[0] if len(layers) == 1 else list(layers),
        vision_feature_select_strategy="full" if model.class_token or not tower.class_token else "default",
        tie_word_embeddings=text.tied,
    )


def next_config(model: VisionLanguage) -> dict[str, Any]:
    """LlavaNextConfig of a model."""
    out = dict(config(model), architectures=["LlavaNextForConditionalGeneration"], model_type="llava_next")
    return dict(out, image_grid_pinpoints=[list(size) for size in model.tiles or ()])


def rules(model: VisionLanguage) -> list[Rule]:
    """The tensor table of both."""
    tower, text, bridge = model.image_tower, model.text_tower, "multi_modal_projector"
    return [
        *nest(parts.vision_of(tower).rules(tower), "vision_tower.", "image_tower/"),
        *linear(f"{bridge}.linear_1", "bridge/fc1", bias=model.bridge.use_bias),
        *linear(f"{bridge}.linear_2", "bridge/fc2", bias=model.bridge.use_bias),
        *nest(parts.language_of(text).rules(text), "language_model.", "text_tower/"),
        *([rule("image_newline", "image_newline")] if model.tiles is not None else []),
    ]


# The releases keep CLIP's own prefix; later ones the names of the classes in memory.
RENAMES = (
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.(vision_tower|multi_modal_projector|image_newline)", r"\1"),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
)
IGNORE = ("*position_ids", "*rotary_emb.inv_freq")

TABLE = Table("llava", fields, config, rules, ignore=IGNORE, renames=RENAMES)
NEXT = Table("llava", next_fields, next_config, rules, ignore=IGNORE, renames=RENAMES)
