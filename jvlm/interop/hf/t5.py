"""`transformers.T5ForConditionalGeneration` directories, and `T5EncoderModel` ones."""

from collections.abc import Collection
from typing import Any

from jvlm.core.mapping import Rule, repeated, rule
from jvlm.interop.hf.blocks import act_from, act_to, language_head, linear
from jvlm.interop.table import Config, Table, require
from jvlm.models.t5 import T5

_DEFAULTS: dict[str, Any] = dict(
    vocab_size=32128,
    d_model=512,
    d_kv=64,
    d_ff=2048,
    num_layers=6,
    num_decoder_layers=None,
    num_heads=8,
    relative_attention_num_buckets=32,
    relative_attention_max_distance=128,
    dropout_rate=0.1,
    layer_norm_epsilon=1e-6,
    feed_forward_proj="relu",
    tie_word_embeddings=True,
    decoder_start_token_id=0,
)


def settle(config: Config, names: Collection[str]) -> Config:
    """`config` with `tied_head`: whether a head is stored, which transformers takes from the weights alone."""
    return {**config, "tied_head": "lm_head.weight" not in names}


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.t5` from a T5Config.

    The first version says `relu` and ties its head to the embedding, scaled; version 1.1 has gates, a head of its own,
    and `tie_word_embeddings` false, which transformers reads as: not scaled.
    """
    c = _DEFAULTS | dict(config)
    gated, _, act = c["feed_forward_proj"].rpartition("-")
    require(dict(feed_forward_proj=gated), "feed_forward_proj", "", "gated")
    act = "gelu_new" if (gated, act) == ("gated", "gelu") else act
    scaled = c.get("scale_decoder_outputs", c["tie_word_embeddings"])
    return dict(
        vocab_size=c["vocab_size"],
        width=c["d_model"],
        depth=c["num_layers"],
        decoder_depth=c["num_layers"] if c["num_decoder_layers"] is None else c["num_decoder_layers"],
        num_heads=c["num_heads"],
        head_dim=c["d_kv"],
        mlp_dim=c["d_ff"],
        act=act_from(act),
        gated=bool(gated),
        num_buckets=c["relative_attention_num_buckets"],
        max_distance=c["relative_attention_max_distance"],
        eps=c["layer_norm_epsilon"],
        tied=c.get("tied_head", c["tie_word_embeddings"]),
        scaled_head=scaled,
        start_id=c["decoder_start_token_id"] or 0,
        dropout=c["dropout_rate"],
    )


def encoder_fields(config: Config) -> dict[str, Any]:
    """Fields of `models.t5` from the configuration of an encoder alone."""
    return dict(fields(config), decoder_depth=0, tied=True)


def config(model: T5) -> dict[str, Any]:
    """T5Config of a model."""
    act = "gelu" if model.gated and model.act == "gelu_tanh" else act_to(model.act)
    return dict(
        architectures=["T5ForConditionalGeneration"],
        model_type="t5",
        is_encoder_decoder=True,
        vocab_size=model.vocab_size,
        d_model=model.width,
        d_kv=model.head_dim,
        d_ff=model.mlp_dim,
        num_layers=model.depth,
        num_decoder_layers=model.decoder_depth,
        num_heads=model.num_heads,
        relative_attention_num_buckets=model.num_buckets,
        relative_attention_max_distance=model.max_distance,
        dropout_rate=model.dropout,
        layer_norm_epsilon=model.eps,
        feed_forward_proj=f"gated-{act}" if model.gated else act,
        tie_word_embeddings=model.scaled_head,
        decoder_start_token_id=model.start_id,
        # transformers ignores it, since it looks at the weights; a configuration alone says it to us.
        **({} if model.tied == model.scaled_head else dict(tied_head=model.tied)),
    )


def encoder_config(model: T5) -> dict[str, Any]:
    """T5Config of an encoder alone."""
    shared = dict(config(model), architectures=["T5EncoderModel"], is_encoder_decoder=False)
    return dict(shared, num_decoder_layers=model.depth)


def _attention(name: str, path: str) -> list[Rule]:
    parts = dict(query="q", key="k", value="v", out="o")
    return [r for ours, theirs in parts.items() for r in linear(f"{name}.{theirs}", f"{path}/{ours}", bias=False)]


def _stack(name: str, path: str, bias: str, gated: bool, cross: bool) -> list[Rule]:
    block, ours, last = f"{name}.block.{{}}.layer", f"{path}/layers", 2 if cross else 1
    products = dict(gate="wi_0", up="wi_1", down="wo") if gated else dict(up="wi", down="wo")
    remember = [
        *_attention(f"{block}.1.EncDecAttention", f"{ours}/cross"),
        rule(f"{block}.1.layer_norm.weight", f"{ours}/norm_cross/scale"),
    ]
    return [
        rule(f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", f"{bias}/embedding"),
        *_attention(f"{block}.0.SelfAttention", f"{ours}/attn"),
        rule(f"{block}.0.layer_norm.weight", f"{ours}/norm_attn/scale"),
        *(remember if cross else []),
        *(
            r
            for mine, theirs in products.items()
            for r in linear(f"{block}.{last}.DenseReluDense.{theirs}", f"{ours}/mlp/{mine}", bias=False)
        ),
        rule(f"{block}.{last}.layer_norm.weight", f"{ours}/norm_mlp/scale"),
        rule(f"{name}.final_layer_norm.weight", f"{path}_norm/scale"),
    ]


def rules(model: T5) -> list[Rule]:
    """The tensor table of both."""
    out = [
        rule("shared.weight", "token_embed/embedding"),
        repeated("encoder.embed_tokens.weight"),
        *_stack("encoder", "encoder", "encoder_bias", model.gated, cross=False),
    ]
    if not model.decoder_depth:
        return out
    return [
        *out,
        repeated("decoder.embed_tokens.weight"),
        *_stack("decoder", "decoder", "decoder_bias", model.gated, cross=True),
        *language_head(model.tied),
    ]


# A bias that the first releases hold and nothing uses.
_IGNORE = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
TABLE = Table("t5", fields, config, rules, ignore=_IGNORE, settle=settle)
ENCODER = Table("t5", encoder_fields, encoder_config, rules, ignore=(*_IGNORE, "decoder.*", "lm_head.*"))
