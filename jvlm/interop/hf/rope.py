"""Rotary positions in transformers' configurations: `rope_parameters`, before transformers 5 `rope_scaling`."""

from typing import Any

from jvlm.core.errors import UserError, nearest
from jvlm.interop.table import Config
from jvlm.nn import rope
from jvlm.nn.rope import Rope

_NAMES = {
    "rope_type": "kind",
    "rope_theta": "theta",
    "factor": "factor",
    "original_max_position_embeddings": "original",
    "low_freq_factor": "low_freq",
    "high_freq_factor": "high_freq",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
    "truncate": "truncate",
}


def rope_fields(config: Config) -> dict[str, Any]:
    """Fields of a `Rope`. UserError names a kind or a value that jvlm does not implement."""
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if "type" in given:
        given.setdefault("rope_type", given.pop("type"))
    given.setdefault("rope_theta", config.get("rope_theta") or 10_000.0)
    if given.pop("partial_rotary_factor", 1.0) != 1.0:
        raise UserError("config.json has partial_rotary_factor; jvlm turns whole heads")
    for key in given:
        if key not in _NAMES:
            raise UserError(f"config.json has {key!r} in rope_parameters; {nearest(key, _NAMES)}")
    kind = given.get("rope_type", "default")
    if kind not in rope.KINDS:
        raise UserError(f"config.json has rope_type = {kind!r}; {nearest(kind, rope.KINDS)}")
    fields = {_NAMES[key]: value for key, value in given.items() if value is not None}
    if kind == "default":
        fields = {key: fields[key] for key in ("theta",)}
    # As plain as a model's fields write it, so that equal models have equal fields.
    return rope.fields(rope.rope(fields))


def rope_config(spec: Rope) -> dict[str, Any]:
    """The inverse: `rope_parameters`."""
    given = dict(theta=spec.theta, kind=spec.kind) | rope.fields(spec)
    return {key: given[name] for key, name in _NAMES.items() if name in given}
