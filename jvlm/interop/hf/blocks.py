"""Rules and fields that the transformers directories of several families share."""

from typing import Any

from jvlm.core.bijections import TRANSPOSE
from jvlm.core.build import lookup
from jvlm.core.mapping import Rule, repeated, rule

ACTS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def act_from(name: str) -> str:
    """Our name of a transformers activation."""
    return lookup(ACTS, name, "activation")


def act_to(name: str) -> str:
    """The transformers name of our activation (the first one that reads back to it)."""
    return next(theirs for theirs, ours in ACTS.items() if ours == name)


def linear(name: str, path: str, bias: bool = True) -> list[Rule]:
    """`nn.Linear` at `name` and our Dense at `path`."""
    rules = [rule(f"{name}.weight", f"{path}/kernel", TRANSPOSE)]
    return [*rules, rule(f"{name}.bias", f"{path}/bias")] if bias else rules


def language_head(tied: bool) -> list[Rule]:
    """The tensor of a language model's head, which repeats the table where the two are tied."""
    return [repeated("lm_head.weight")] if tied else linear("lm_head", "head", bias=False)


def norm(name: str, path: str) -> list[Rule]:
    """`nn.LayerNorm` at `name` and ours at `path`."""
    return [rule(f"{name}.weight", f"{path}/scale"), rule(f"{name}.bias", f"{path}/bias")]


def clip_encoder(name: str, path: str) -> list[Rule]:
    """The encoder layers that CLIP and SigLIP share, stacked, below `name` and `path`."""
    layer, ours = f"{name}.layers.{{}}", f"{path}/layers"
    return [
        *norm(f"{layer}.layer_norm1", f"{ours}/norm_attn"),
        *norm(f"{layer}.layer_norm2", f"{ours}/norm_mlp"),
        *linear(f"{layer}.self_attn.q_proj", f"{ours}/attn/query"),
        *linear(f"{layer}.self_attn.k_proj", f"{ours}/attn/key"),
        *linear(f"{layer}.self_attn.v_proj", f"{ours}/attn/value"),
        *linear(f"{layer}.self_attn.out_proj", f"{ours}/attn/out"),
        *linear(f"{layer}.mlp.fc1", f"{ours}/mlp/up"),
        *linear(f"{layer}.mlp.fc2", f"{ours}/mlp/down"),
    ]


def tower_fields(config: dict[str, Any]) -> dict[str, Any]:
    """Fields of a transformer whose configuration uses the common transformers names."""
    return dict(
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"],
        act=act_from(config["hidden_act"]),
        eps=config["layer_norm_eps"],
    )


def tower_config(tower: Any) -> dict[str, Any]:
    """The inverse of `tower_fields`."""
    return dict(
        hidden_size=tower.width,
        num_hidden_layers=tower.depth,
        num_attention_heads=tower.num_heads,
        intermediate_size=tower.mlp_dim,
        hidden_act=act_to(tower.act),
        layer_norm_eps=tower.eps,
    )
