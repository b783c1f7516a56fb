"""`transformers.OPTForCausalLM` directories."""

from typing import Any

from jvlm.core.mapping import Rule, rule
from jvlm.interop.hf import layer_norm_decoders as shared
from jvlm.interop.hf.blocks import language_head, linear, norm
from jvlm.interop.table import Config, Table, require
from jvlm.models.decoder import Decoder

_DEFAULTS: dict[str, Any] = dict(
    vocab_size=50272,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    ffn_dim=3072,
    max_position_embeddings=2048,
    do_layer_norm_before=True,
    _remove_final_layer_norm=False,
    word_embed_proj_dim=None,
    activation_function="relu",
    enable_bias=True,
    dropout=0.1,
    tie_word_embeddings=True,
)
_OFFSET = 2
"""Rows of the position table before that of position 0."""


_NAMES = dict(
    vocab_size="vocab_size",
    width="hidden_size",
    depth="num_hidden_layers",
    num_heads="num_attention_heads",
    mlp_dim="ffn_dim",
    length="max_position_embeddings",
    dropout="dropout",
)


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.decoder` from an OPTConfig."""
    c = _DEFAULTS | dict(config)
    require(c, "layer_norm_elementwise_affine", True)
    require(c, "layerdrop", 0, 0.0)
    before = c["do_layer_norm_before"]
    return shared.fields(c, _NAMES, bias=c["enable_bias"]) | dict(
        eps=1e-5,
        position_offset=_OFFSET,
        place="pre" if before else "post",
        final_norm=before and not c["_remove_final_layer_norm"],
        embed_width=c["word_embed_proj_dim"] or c["hidden_size"],
    )


def config(model: Decoder) -> dict[str, Any]:
    """OPTConfig of a model."""
    return shared.config(model, _NAMES, "opt", "OPTForCausalLM") | dict(
        do_layer_norm_before=model.place == "pre",
        _remove_final_layer_norm=model.place == "pre" and not model.final_norm,
        word_embed_proj_dim=model.embed_width or model.width,
        enable_bias=model.qkv_bias,
    )


def rules(model: Decoder) -> list[Rule]:
    """The tensor table of OPTForCausalLM."""
    decoder, ours, bias = "model.decoder", "blocks/layers", model.qkv_bias
    layer = f"{decoder}.layers.{{}}"
    narrow = (model.embed_width or model.width) != model.width
    return [
        rule(f"{decoder}.embed_tokens.weight", "token_embed/embedding"),
        rule(f"{decoder}.embed_positions.weight", "pos_embed"),
        *(linear(f"{decoder}.project_in", "embed_in", bias=False) if narrow else []),
        *(linear(f"{decoder}.project_out", "embed_out", bias=False) if narrow else []),
        *linear(f"{layer}.self_attn.q_proj", f"{ours}/attn/query", bias=bias),
        *linear(f"{layer}.self_attn.k_proj", f"{ours}/attn/key", bias=bias),
        *linear(f"{layer}.self_attn.v_proj", f"{ours}/attn/value", bias=bias),
        *linear(f"{layer}.self_attn.out_proj", f"{ours}/attn/out", bias=bias),
        *norm(f"{layer}.self_attn_layer_norm", f"{ours}/norm_attn"),
        *linear(f"{layer}.fc1", f"{ours}/mlp/up", bias=bias),
        *linear(f"{layer}.fc2", f"{ours}/mlp/down", bias=bias),
        *norm(f"{layer}.final_layer_norm", f"{ours}/norm_mlp"),
        *(norm(f"{decoder}.final_layer_norm", "last_norm") if model.final_norm else []),
        *language_head(model.tied),
    ]


# The first releases lack the prefix, or have that of another class.
TABLE = Table("decoder", fields, config, rules, renames=((r"^decoder\.", "model.decoder."),))
