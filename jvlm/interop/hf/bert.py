"""`transformers.BertModel` directories."""

from typing import Any

from jvlm.core.mapping import Rule, rule
from jvlm.interop.hf.blocks import linear, norm, tower_config, tower_fields
from jvlm.interop.table import Config, Table, require
from jvlm.models.bert import Bert

_DEFAULTS: dict[str, Any] = dict(
    vocab_size=30522,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    max_position_embeddings=512,
    type_vocab_size=2,
    pad_token_id=0,
    hidden_dropout_prob=0.1,
)


def bert_fields(config: Config) -> dict[str, Any]:
    """Fields of a `Bert` from a BertConfig, or from the text part of an AlignConfig."""
    c = _DEFAULTS | dict(config)
    require(c, "position_embedding_type", "absolute")
    require(c, "is_decoder", False)
    require(c, "add_cross_attention", False)
    return dict(
        tower_fields(c),
        vocab_size=c["vocab_size"],
        length=c["max_position_embeddings"],
        num_types=c["type_vocab_size"],
        pad_id=c["pad_token_id"],
        dropout=c["hidden_dropout_prob"],
    )


def bert_config(model: Any) -> dict[str, Any]:
    """The inverse of `bert_fields`."""
    return dict(
        tower_config(model),
        vocab_size=model.vocab_size,
        max_position_embeddings=model.length,
        type_vocab_size=model.num_types,
        pad_token_id=getattr(model, "pad_id", 0),
        hidden_dropout_prob=model.dropout,
        attention_probs_dropout_prob=0.0,
    )


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.bert` from a BertConfig.

    transformers does not record whether a pooler was saved; `add_pooling_layer`, which it ignores, tells us.
    """
    pooler = config.get("add_pooling_layer", True)
    return dict(bert_fields(config), pooler=pooler, pool="pooler" if pooler else "first")


def config(model: Bert) -> dict[str, Any]:
    """BertConfig of a model."""
    head = dict(architectures=["BertModel"], model_type="bert")
    return dict(head, **bert_config(model), **({} if model.pooler else {"add_pooling_layer": False}))


def rules(model: Bert) -> list[Rule]:
    """The tensor table of BertModel, and of AlignTextModel."""
    layer, ours = "encoder.layer.{}", "blocks/layers"
    return [
        rule("embeddings.word_embeddings.weight", "token_embed/embedding"),
        rule("embeddings.position_embeddings.weight", "pos_embed"),
        rule("embeddings.token_type_embeddings.weight", "type_embed/embedding"),
        *norm("embeddings.LayerNorm", "norm"),
        *linear(f"{layer}.attention.self.query", f"{ours}/attn/query"),
        *linear(f"{layer}.attention.self.key", f"{ours}/attn/key"),
        *linear(f"{layer}.attention.self.value", f"{ours}/attn/value"),
        *linear(f"{layer}.attention.output.dense", f"{ours}/attn/out"),
        *norm(f"{layer}.attention.output.LayerNorm", f"{ours}/norm_attn"),
        *linear(f"{layer}.intermediate.dense", f"{ours}/mlp/up"),
        *linear(f"{layer}.output.dense", f"{ours}/mlp/down"),
        *norm(f"{layer}.output.LayerNorm", f"{ours}/norm_mlp"),
        *(linear("pooler.dense", "pooler") if model.pooler else []),
    ]


TABLE = Table(
    "bert",
    fields,
    config,
    rules,
    # The pretraining heads, which the released directories hold beside the encoder.
    ignore=("*position_ids", "cls.*"),
    renames=((r"^bert\.", ""), (r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
)
