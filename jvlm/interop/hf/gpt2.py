"""`transformers.GPT2LMHeadModel` directories. Their Conv1D kernels are [in, out] as ours are."""

from typing import Any

from jvlm.core.bijections import IDENTITY, Bijection, columns
from jvlm.core.mapping import Rule, rule
from jvlm.interop.hf import layer_norm_decoders as shared
from jvlm.interop.hf.blocks import language_head, norm
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


_NAMES = dict(
    vocab_size="vocab_size",
    width="n_embd",
    depth="n_layer",
    num_heads="n_head",
    mlp_dim="n_inner",
    length="n_positions",
    eps="layer_norm_epsilon",
    dropout="resid_pdrop",
)


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.decoder` from a GPT2Config."""
    c = _DEFAULTS | dict(config)
    require(c, "scale_attn_weights", True)
    require(c, "scale_attn_by_inverse_layer_idx", False)
    require(c, "add_cross_attention", False)
    return shared.fields(c | dict(n_inner=c["n_inner"] or 4 * c["n_embd"]), _NAMES, bias=True)


def config(model: Decoder) -> dict[str, Any]:
    """GPT2Config of a model."""
    return shared.config(model, _NAMES, "gpt2", "GPT2LMHeadModel")


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
        *language_head(model.tied),
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
