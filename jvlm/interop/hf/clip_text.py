"""`transformers.CLIPTextModel` and `CLIPTextModelWithProjection` directories."""

from typing import Any

from jvlm.core.mapping import Rule, nest
from jvlm.interop.hf.blocks import linear
from jvlm.interop.hf.clip import text_config, text_fields, text_rules
from jvlm.interop.table import Config, Table
from jvlm.models.clip_text import ClipText

PROJECTED = "CLIPTextModelWithProjection"


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.clip_text` from a CLIPTextConfig; the architecture tells whether there is a projection."""
    projected = PROJECTED in (config.get("architectures") or [])
    return dict(text_fields(config), embed_dim=config.get("projection_dim", 512) if projected else None)


def config(model: ClipText) -> dict[str, Any]:
    """CLIPTextConfig of a model."""
    own = text_config(model.text_tower)
    if model.proj is None:
        return dict(own, architectures=["CLIPTextModel"])
    return dict(own, architectures=[PROJECTED], projection_dim=model.proj.features)


def rules(model: ClipText) -> list[Rule]:
    """The tensor table of either class: a projection puts a prefix before the tower's names."""
    if model.proj is None:
        return nest(text_rules(), "", "text_tower/")
    return [
        *nest(text_rules(), "text_model.", "text_tower/"),
        *linear("text_projection", "proj", bias=False),
    ]


TABLE = Table("clip-text", fields, config, rules, renames=((r"^text_model\.", ""),))
PROJECTED_TABLE = Table("clip-text", fields, config, rules)
