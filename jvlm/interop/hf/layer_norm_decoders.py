"""What the directories of GPT-2 and OPT share: learned positions, layer norms, a plain MLP, perhaps a tied head."""

from collections.abc import Mapping
from typing import Any

from jvlm.interop.hf.blocks import act_from, act_to
from jvlm.models.decoder import Decoder

Names = Mapping[str, str]
"""Our fields by their published names."""


def fields(c: Mapping[str, Any], names: Names, bias: bool) -> dict[str, Any]:
    """Fields of `models.decoder` from a complete configuration; `bias` of every product."""
    return dict(
        {ours: c[theirs] for ours, theirs in names.items()},
        act=act_from(c["activation_function"]),
        norm="layer",
        gated=False,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        rope=None,
        tied=c["tie_word_embeddings"],
    )


def config(model: Decoder, names: Names, kind: str, architecture: str) -> dict[str, Any]:
    """The published configuration of a model."""
    return dict(
        {theirs: getattr(model, ours) for ours, theirs in names.items()},
        architectures=[architecture],
        model_type=kind,
        activation_function=act_to(model.act),
        tie_word_embeddings=model.tied,
    )
