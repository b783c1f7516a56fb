"""Prefix and prompt tuning in PEFT's format: one tensor `prompt_embeddings`, for language models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jvlm.core.errors import UserError
from jvlm.interop.pretrained import Pretrained
from jvlm.models.decoder import Decoder
from jvlm.transforms.context import Context
from jvlm.transforms.prefix import Prefix

KINDS: dict[str, type] = {"PREFIX_TUNING": Prefix, "PROMPT_TUNING": Context}
TENSOR = "prompt_embeddings"
TABLE = "token_embed/embedding"
KEY, VALUE = (f"blocks/layers/attn/{name}/kernel" for name in ("key", "value"))


def read(kind: str, tensors: Mapping[str, np.ndarray], base: Pretrained, where: Path) -> dict[str, Any]:
    """The leaves, by path, of a directory of `kind`; they stand on nothing yet."""
    model = _decoder(base)
    if set(tensors) != {TENSOR}:
        odd = sorted(set(tensors) ^ {TENSOR})[0]
        raise UserError(f"{where}: {odd} is {'missing' if odd == TENSOR else 'no tensor of a learned prompt'}")
    rows = tensors[TENSOR].astype(np.float32)
    if kind == "PROMPT_TUNING":
        return {TABLE: Context(None, jnp.asarray(rows))}
    width = model.kv_heads * model.heads_width
    if rows.shape[1] != 2 * model.depth * width:
        wanted = f"{2 * model.depth} keys and values of {width}"
        raise UserError(f"{where}: a prefix is {rows.shape[1]} numbers, but the model has {wanted}")
    split = rows.reshape(len(rows), model.depth, 2, width).transpose(2, 1, 0, 3)  # [2, L, P, K D]
    return {path: Prefix(None, jnp.asarray(part)) for path, part in zip((KEY, VALUE), split)}


def write(leaves: Mapping[str, Any], base: Pretrained) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(the kind's fields of `adapter_config.json`, tensors)."""
    model = _decoder(base)
    prefix = isinstance(next(iter(leaves.values())), Prefix)
    if set(leaves) != ({KEY, VALUE} if prefix else {TABLE}):
        raise UserError(f"PEFT has no form for a prefix or prompt at {sorted(leaves)} alone")
    if prefix:
        both = np.stack([np.asarray(leaves[path].rows, np.float32) for path in (KEY, VALUE)])  # [2, L, P, K D]
        rows = both.transpose(2, 1, 0, 3).reshape(both.shape[2], -1)
        fields: dict[str, Any] = dict(prefix_projection=False, encoder_hidden_size=None, init_weights=None)
    else:
        rows = np.asarray(leaves[TABLE].rows, np.float32)
        fields = dict(prompt_tuning_init="RANDOM")
    config = dict(
        peft_type="PREFIX_TUNING" if prefix else "PROMPT_TUNING",
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=None,
        num_virtual_tokens=len(rows),
        num_layers=model.depth,
        num_attention_heads=model.kv_heads if prefix else model.num_heads,
        token_dim=model.kv_heads * model.heads_width if prefix else rows.shape[1],
        num_transformer_submodules=1,
        modules_to_save=None,
        **fields,
    )
    return config, {TENSOR: rows}


def _decoder(base: Pretrained) -> Decoder:
    if not isinstance(base.model, Decoder):
        family = base.config["family"]
        raise UserError(f"PEFT's prefixes and prompts are for language models, this is of the family {family!r}")
    return base.model
