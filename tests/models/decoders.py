"""Tiny decoders of every kind of block, for the properties that all of them have."""

import functools
from typing import Any

from tests.models_util import initialize, tiny

PLAIN: dict[str, Any] = dict(
    norm="layer", gated=False, act="relu", qkv_bias=True, out_bias=True, mlp_bias=True, rope=None, num_kv_heads=None
)
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": dict(window=3, tied=False),
    "gemma2": dict(
        norm_offset=1.0,
        place="both",
        window=3,
        depth=3,
        local=(True, False, True),
        attn_softcap=2.0,
        logit_softcap=3.0,
        scaled_embed=True,
        query_scale=5.0,
        num_kv_heads=1,
    ),
    "opt": dict(PLAIN, position_offset=2, place="post", final_norm=False, embed_width=20),
    "gpt2": PLAIN,
}


@functools.cache
def kind(name: str, **fields: Any) -> tuple[Any, dict[str, Any]]:
    """(model, variables) of a kind with random weights."""
    model, variables, _ = initialize(tiny("decoder", **KINDS[name] | fields))
    return model, variables
