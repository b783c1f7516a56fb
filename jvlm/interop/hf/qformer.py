"""The Q-Former's part of BLIP-2's directories, and of those that share it."""

from dataclasses import replace
from typing import Any

from jvlm.core.mapping import Rule, rule
from jvlm.interop.hf.blocks import linear, norm, tower_config, tower_fields
from jvlm.interop.table import Config
from jvlm.models.qformer import QFormer

_DEFAULTS: dict[str, Any] = dict(
    vocab_size=30522,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    hidden_dropout_prob=0.1,
    layer_norm_eps=1e-12,
    max_position_embeddings=512,
    pad_token_id=0,
    cross_attention_frequency=2,
)


def qformer_fields(config: Config, reads: bool) -> dict[str, Any]:
    """Fields of a `QFormer`; `reads` tells whether it has a branch for text."""
    c = _DEFAULTS | dict(config)
    words = dict(vocab_size=c["vocab_size"], length=c["max_position_embeddings"], pad_id=c["pad_token_id"])
    every, dropout = c["cross_attention_frequency"], c["hidden_dropout_prob"]
    return dict(tower_fields(c), every=every, dropout=dropout, **(words if reads else {}))


def qformer_config(model: QFormer, kind: str, memory: int) -> dict[str, Any]:
    """The inverse; `memory` is the width of what it attends to."""
    words = dict(vocab_size=model.vocab_size, max_position_embeddings=model.length, pad_token_id=model.pad_id)
    return dict(
        tower_config(model),
        model_type=kind,
        cross_attention_frequency=model.every,
        encoder_hidden_size=memory,
        hidden_dropout_prob=model.dropout,
        attention_probs_dropout_prob=0.0,
        **(words if model.vocab_size is not None else {}),
    )


def qformer_rules(model: QFormer, layernorm: str, embeddings: str) -> list[Rule]:
    """Its tensors: `layernorm` is the name of the first norm, `embeddings` the prefix of those of words."""
    words = [
        rule(f"{embeddings}word_embeddings.weight", "token_embed/embedding"),
        rule(f"{embeddings}position_embeddings.weight", "pos_embed"),
    ]
    out = [rule("query_tokens", "queries"), *norm(layernorm, "norm"), *(words if model.vocab_size is not None else [])]
    layer = "qformer.encoder.layer.{}"
    for index in range(model.every):
        ours = f"blocks/layers/{{}}_{index}".format
        rules = [
            *_attention(f"{layer}.attention", ours("attn"), ours("norm_attn")),
            *_mlp(f"{layer}.intermediate_query", f"{layer}.output_query", ours("mlp"), ours("norm_mlp")),
        ]
        if model.vocab_size is not None:
            rules += _mlp(f"{layer}.intermediate", f"{layer}.output", ours("text"), ours("norm_text"))
        if index == 0:
            rules += _attention(f"{layer}.crossattention", "blocks/layers/cross", "blocks/layers/norm_cross")
        out += [replace(r, start=index, step=model.every) for r in rules]
    return out


def _attention(name: str, path: str, after: str) -> list[Rule]:
    return [
        *(r for part in ("query", "key", "value") for r in linear(f"{name}.attention.{part}", f"{path}/{part}")),
        *linear(f"{name}.output.dense", f"{path}/out"),
        *norm(f"{name}.output.LayerNorm", after),
    ]


def _mlp(up: str, down: str, path: str, after: str) -> list[Rule]:
    return [
        *linear(f"{up}.dense", f"{path}/up"),
        *linear(f"{down}.dense", f"{path}/down"),
        *norm(f"{down}.LayerNorm", after),
    ]
