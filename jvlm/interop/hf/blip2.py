"""`transformers` directories of BLIP-2 and InstructBLIP: with a language model, or as a matcher."""

from typing import Any

from jvlm.core.bijections import patch, split
from jvlm.core.mapping import Rule, nest, rule
from jvlm.interop.hf import parts
from jvlm.interop.hf.blocks import linear, norm, tower_config, tower_fields
from jvlm.interop.hf.qformer import qformer_config, qformer_fields, qformer_rules
from jvlm.interop.table import Config, Table, require, single, size, unsize
from jvlm.models.blip2_pretrain import Blip2Pretrain
from jvlm.models.vision_language import VisionLanguage
from jvlm.models.vit import ViT

_VISION: dict[str, Any] = dict(
    hidden_size=1408,
    intermediate_size=6144,
    num_hidden_layers=39,
    num_attention_heads=16,
    image_size=224,
    patch_size=14,
    hidden_act="gelu",
    layer_norm_eps=1e-6,
    qkv_bias=True,
)


def vision_fields(config: Config) -> dict[str, Any]:
    """Fields of BLIP's vision tower from a Blip2VisionConfig."""
    c = _VISION | dict(config)
    require(c, "num_channels", 3)
    patch_size = single(c["patch_size"], "patch_size")
    return dict(tower_fields(c), patch_size=patch_size, image_size=size(c["image_size"]), qkv_bias=c["qkv_bias"])


def vision_config(tower: ViT, kind: str) -> dict[str, Any]:
    """The inverse of `vision_fields`."""
    own = dict(model_type=kind, image_size=unsize(tower.image_size), patch_size=tower.patch_size)
    return dict(tower_config(tower), qkv_bias=tower.qkv_bias, **own)


def vision_rules(tower: ViT) -> list[Rule]:
    """The tensor table of Blip2VisionModel."""
    layer, ours = "encoder.layers.{}", "blocks/layers"
    qkv = tuple(f"{ours}/attn/{part}" for part in ("query", "key", "value"))
    kernels, biases = (tuple(f"{x}/{leaf}" for x in qkv) for leaf in ("kernel", "bias"))
    fused = rule(f"{layer}.self_attn.qkv.bias", biases, split(3, transpose=False))
    return [
        rule("embeddings.class_embedding", "class_token"),
        rule("embeddings.patch_embedding.weight", "patches/proj/kernel", patch(tower.patch_size)),
        rule("embeddings.patch_embedding.bias", "patches/proj/bias"),
        rule("embeddings.position_embedding", "pos_embed"),
        *norm(f"{layer}.layer_norm1", f"{ours}/norm_attn"),
        *norm(f"{layer}.layer_norm2", f"{ours}/norm_mlp"),
        rule(f"{layer}.self_attn.qkv.weight", kernels, split(3, transpose=True)),
        *([fused] if tower.qkv_bias else []),
        *linear(f"{layer}.self_attn.projection", f"{ours}/attn/out"),
        *linear(f"{layer}.mlp.fc1", f"{ours}/mlp/up"),
        *linear(f"{layer}.mlp.fc2", f"{ours}/mlp/down"),
        *norm("post_layernorm", "norm"),
    ]


def _fields(config: Config, reads: bool) -> dict[str, Any]:
    text = dict(config.get("text_config") or {})
    language = parts.language(text, "opt").fields(text)
    image_token = config.get("image_token_id", config.get("image_token_index"))
    queries = dict(qformer_fields(config.get("qformer_config") or {}, reads), num_queries=_queries(config))
    return dict(
        image=vision_fields(config.get("vision_config") or {}),
        qformer=queries,
        text=language,
        # The first releases have no token for pictures: one beyond the vocabulary.
        image_token=language["vocab_size"] if image_token is None else image_token,
    )


def _queries(config: Config) -> int:
    return config.get("num_query_tokens", 32)


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.blip2` from a Blip2Config."""
    return _fields(config, reads=False)


def instruct_fields(config: Config) -> dict[str, Any]:
    """Fields of `models.blip2` from an InstructBlipConfig, whose Q-Former reads the instruction."""
    return _fields(config, reads=True)


def _config(model: VisionLanguage, name: str, kind: str, part: str) -> dict[str, Any]:
    text, queries = model.text_tower, model.bridge.qformer
    return dict(
        architectures=[name],
        model_type=kind,
        vision_config=vision_config(model.image_tower, f"{part}_vision_model"),
        qformer_config=qformer_config(queries, f"{part}_qformer", model.image_tower.width),
        text_config=parts.language_of(text).config(text),
        num_query_tokens=queries.num_queries,
        image_token_index=model.image_token,
    )


def config(model: VisionLanguage) -> dict[str, Any]:
    """Blip2Config of a model."""
    return _config(model, "Blip2ForConditionalGeneration", "blip-2", "blip_2")


def instruct_config(model: VisionLanguage) -> dict[str, Any]:
    """InstructBlipConfig of a model."""
    return _config(model, "InstructBlipForConditionalGeneration", "instructblip", "instructblip")


def _rules(model: VisionLanguage, layernorm: str) -> list[Rule]:
    queries, text = model.bridge.qformer, model.text_tower
    embeddings = "qformer.embeddings."
    return [
        *nest(vision_rules(model.image_tower), "vision_model.", "image_tower/"),
        *nest(qformer_rules(queries, layernorm, embeddings), "", "bridge/qformer/"),
        *linear("language_projection", "bridge/proj"),
        *nest(parts.language_of(text).rules(text), "language_model.", "text_tower/"),
    ]


def rules(model: VisionLanguage) -> list[Rule]:
    """The tensor table of Blip2ForConditionalGeneration."""
    return _rules(model, "qformer.layernorm")


def instruct_rules(model: VisionLanguage) -> list[Rule]:
    """The tensor table of InstructBlipForConditionalGeneration."""
    return _rules(model, "qformer.embeddings.layernorm")


def retrieval_fields(config: Config) -> dict[str, Any]:
    """Fields of `models.blip2_pretrain` from the Blip2Config of a Blip2ForImageTextRetrieval.

    transformers knows neither head for words nor temperature; `generation_head`, which it ignores, tells us.
    """
    queries = qformer_fields(config.get("qformer_config") or {}, reads=True)
    return dict(
        image=vision_fields(config.get("vision_config") or {}),
        text=dict(queries, num_queries=_queries(config)),
        embed_dim=config.get("image_text_hidden_size", 256),
        generation=config.get("generation_head", False),
    )


def retrieval_config(model: Blip2Pretrain) -> dict[str, Any]:
    """The Blip2Config of a Blip2ForImageTextRetrieval."""
    queries = qformer_config(model.qformer, "blip_2_qformer", model.image_tower.width)
    return dict(
        architectures=["Blip2ForImageTextRetrieval"],
        model_type="blip-2",
        vision_config=vision_config(model.image_tower, "blip_2_vision_model"),
        qformer_config=dict(queries, use_qformer_text_input=True),
        num_query_tokens=model.qformer.num_queries,
        image_text_hidden_size=model.embed_dim,
        **(dict(generation_head=True) if model.generation else {}),
    )


def retrieval_rules(model: Blip2Pretrain) -> list[Rule]:
    """The tensor table of Blip2ForImageTextRetrieval; what only training needs under BLIP's own names."""
    head = "cls.predictions"
    words = [
        *linear(f"{head}.transform.dense", "word_dense"),
        *norm(f"{head}.transform.LayerNorm", "word_norm"),
        rule(f"{head}.bias", "word_bias"),
        rule("temp", "temperature"),
    ]
    return [
        *nest(vision_rules(model.image_tower), "vision_model.", "image_tower/"),
        *nest(qformer_rules(model.qformer, "qformer.layernorm", "embeddings."), "", "qformer/"),
        *linear("vision_projection", "image_proj"),
        *linear("text_projection", "text_proj"),
        *linear("itm_head", "match"),
        *(words if model.generation else []),
    ]


_IGNORE = ("*position_ids", "*rotary_emb.inv_freq")
TABLE = Table("blip2", fields, config, rules, ignore=_IGNORE)
INSTRUCT = Table("blip2", instruct_fields, instruct_config, instruct_rules, ignore=_IGNORE)
RETRIEVAL = Table("blip2-pretrain", retrieval_fields, retrieval_config, retrieval_rules, ignore=_IGNORE)
