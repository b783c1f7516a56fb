"""`transformers.GPT2LMHeadModel` directories. Their Conv1D kernels are [in, out] as ours are."""

from typing import Any

from jvlm.core.mapping import IDENTITY, Bijection, Rule, columns, repeated, rule
from jvlm.interop.hf.blocks import act_from, act_to, linear, norm
from jvlm.interop.table import Config, Table, require
from jvlm.models.decoder import Decoder

_DEFAULTS: dict[str, Any] = dict(
    vocab_size=50257,
    n_positions=1024,
    n_embd=768,
    n_layer=12,
    n_head=12,
    n_inner=None,
    activation_function="gelu_new",
    layer_norm_epsilon=1e-5,
    resid_pdrop=0.1,
    tie_word_embeddings=True,
)


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.decoder` from a GPT2Config."""
    c = _DEFAULTS | dict(config)
    require(c, "scale_attn_weights", True)
    require(c, "scale_attn_by_inverse_layer_idx", False)
    require(c, "add_cross_attention", False)
    return dict(
        vocab_size=c["vocab_size"],
        width=c["n_embd"],
        depth=c["n_layer"],
        num_heads=c["n_head"],
        mlp_dim=c["n_inner"] or 4 * c["n_embd"],
        length=c["n_positions"],
        act=act_from(c["activation_function"]),
        eps=c["layer_norm_epsilon"],
        norm="layer",
        gated=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        rope=None,
        dropout=c["resid_pdrop"],
        tied=c["tie_word_embeddings"],
    )


def config(model: Decoder) -> dict[str, Any]:
    """GPT2Config of a model."""
    return dict(
        architectures=["GPT2LMHeadModel"],
        model_type="gpt2",
        vocab_size=model.vocab_size,
        n_positions=model.length,
        n_embd=model.width,
        n_layer=model.depth,
        n_head=model.num_heads,
        n_inner=model.mlp_dim,
        activation_function=act_to(model.act),
        layer_norm_epsilon=model.eps,
        resid_pdrop=model.dropout,
        tie_word_embeddings=model.tied,
    )


def _conv1d(name: str, paths: tuple[str, ...], fn: Bijection = IDENTITY) -> list[Rule]:
    return [
        rule(f"{name}.weight", tuple(f"{path}/kernel" for path in paths), fn),
        rule(f"{name}.bias", tuple(f"{path}/bias" for path in paths), fn),
    ]


def rules(model: Decoder) -> list[Rule]:
    """The tensor table of GPT2LMHeadModel."""
    layer, ours = "transformer.h.{}", "blocks/layers"
    qkv = tuple(f"{ours}/attn/{name}" for name in ("query", "key", "value"))
    return [
        rule("transformer.wte.weight", "token_embed/embedding"),
        rule("transformer.wpe.weight", "pos_embed"),
        *norm(f"{layer}.ln_1", f"{ours}/norm_attn"),
        *_conv1d(f"{layer}.attn.c_attn", qkv, columns(3)),
        *_conv1d(f"{layer}.attn.c_proj", (f"{ours}/attn/out",)),
        *norm(f"{layer}.ln_2", f"{ours}/norm_mlp"),
        *_conv1d(f"{layer}.mlp.c_fc", (f"{ours}/mlp/up",)),
        *_conv1d(f"{layer}.mlp.c_proj", (f"{ours}/mlp/down",)),
        *norm("transformer.ln_f", "last_norm"),
        *([repeated("lm_head.weight")] if model.tied else linear("lm_head", "head", bias=False)),
    ]


TABLE = Table(
    "decoder",
    fields,
    config,
    rules,
    # The causal mask, which the released files hold as a buffer.
    ignore=("*.attn.bias", "*.attn.masked_bias"),
    renames=((r"^(wte|wpe|h|ln_f)\.", r"transformer.\1."),),
)
