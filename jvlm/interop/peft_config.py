"""`adapter_config.json`: what of it jvlm honours, and the refusal by name of everything else."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jvlm.core.errors import UserError, nearest

KINDS = ("LORA", "IA3", "PREFIX_TUNING", "PROMPT_TUNING")
# Honoured, by being read or because the tensors themselves say it.
_HONOURED = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "bias"),
    *("modules_to_save", "layers_to_transform", "layers_pattern", "target_modules", "exclude_modules"),
    *("feedforward_modules", "lora_dropout", "fan_in_fan_out"),
    *("num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads"),
}
# Says where an adapter comes from, or how it was started; nothing that it computes depends on it.
_HISTORY = {
    *("base_model_name_or_path", "revision", "task_type", "inference_mode", "auto_mapping", "peft_version"),
    *("init_ia3_weights", "runtime_config", "megatron_core", "qalora_group_size", "eva_config", "lora_ga_config"),
    *("loftq_config", "corda_config"),
    # A prefix's reparametrization (arXiv:2101.00190, section 4.3) is gone from what is saved.
    *("prefix_projection", "encoder_hidden_size", "init_weights", "prompt_tuning_init", "prompt_tuning_init_text"),
    *("tokenizer_name_or_path", "tokenizer_kwargs"),
}
# Initializations that leave the base as it is; the others move a part of it into the adapter.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


def check(config: Mapping[str, Any], where: Any) -> None:
    """UserError naming the first setting that jvlm does not implement."""
    kind = config.get("peft_type")
    if kind not in KINDS:
        raise UserError(f"{where}: peft_type {kind!r} is not implemented; {nearest(str(kind), KINDS)}")
    start = config.get("init_lora_weights", True)
    if start not in _STARTS:
        raise UserError(f"{where}: init_lora_weights = {start!r} changes the base; convert the adapter to LoRA in peft")
    for key, value in config.items():
        if key in _HONOURED or key in _HISTORY or key == "init_lora_weights":
            continue
        if key == "num_transformer_submodules" and value in (None, 1):
            continue
        if value not in (None, False, "", 0) and value not in ([], {}):
            raise UserError(f"{where}: {key} = {value!r} is not implemented; merge the adapter in peft")


def pattern_value(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that ends a module's name, as peft matches them."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def written(kind: str, modules: Sequence[str], saved: Sequence[str], **fields: Any) -> dict[str, Any]:
    """The configuration of a directory that jvlm writes."""
    return dict(
        peft_type=kind,
        target_modules=sorted(modules),
        modules_to_save=sorted(saved) or None,
        base_model_name_or_path=None,
        task_type=None,
        inference_mode=True,
        **fields,
    )
