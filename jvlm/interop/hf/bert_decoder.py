"""`transformers.BertLMHeadModel` directories whose configuration says `is_decoder`."""

from typing import Any

from jvlm.core.mapping import Rule, repeated, rule
from jvlm.interop.hf import bert
from jvlm.interop.hf.blocks import linear, norm
from jvlm.interop.table import Config, Table
from jvlm.models.bert_decoder import BertDecoder


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.bert_decoder` from a BertConfig."""
    shared = bert.bert_fields({**config, "is_decoder": False, "add_cross_attention": False})
    del shared["pad_id"]  # a decoder is told what is padding
    return dict(shared, cross=config.get("add_cross_attention", False))


def config(model: BertDecoder) -> dict[str, Any]:
    """BertConfig of a model."""
    return dict(
        architectures=["BertLMHeadModel"],
        model_type="bert",
        is_decoder=True,
        add_cross_attention=model.cross,
        **bert.bert_config(model),
    )


def _attention(name: str, path: str) -> list[Rule]:
    return [
        *(r for part in ("query", "key", "value") for r in linear(f"{name}.self.{part}", f"{path}/{part}")),
        *linear(f"{name}.output.dense", f"{path}/out"),
    ]


def rules(model: BertDecoder) -> list[Rule]:
    """The tensor table of BertLMHeadModel."""
    layer, ours, head = "bert.encoder.layer.{}", "blocks/layers", "cls.predictions"
    cross = [
        *_attention(f"{layer}.crossattention", f"{ours}/cross"),
        *norm(f"{layer}.crossattention.output.LayerNorm", f"{ours}/norm_cross"),
    ]
    return [
        rule("bert.embeddings.word_embeddings.weight", "token_embed/embedding"),
        rule("bert.embeddings.position_embeddings.weight", "pos_embed"),
        rule("bert.embeddings.token_type_embeddings.weight", "type_embed/embedding"),
        *norm("bert.embeddings.LayerNorm", "norm"),
        *_attention(f"{layer}.attention", f"{ours}/attn"),
        *norm(f"{layer}.attention.output.LayerNorm", f"{ours}/norm_attn"),
        *(cross if model.cross else []),
        *linear(f"{layer}.intermediate.dense", f"{ours}/mlp/up"),
        *linear(f"{layer}.output.dense", f"{ours}/mlp/down"),
        *norm(f"{layer}.output.LayerNorm", f"{ours}/norm_mlp"),
        *linear(f"{head}.transform.dense", "head_dense"),
        *norm(f"{head}.transform.LayerNorm", "head_norm"),
        rule(f"{head}.bias", "head_bias"),
        repeated(f"{head}.decoder.weight"),
        repeated(f"{head}.decoder.bias"),
    ]


TABLE = Table(
    "bert-decoder",
    fields,
    config,
    rules,
    ignore=("*position_ids", "cls.seq_relationship.*"),
    renames=bert.TABLE.renames[1:],
)
