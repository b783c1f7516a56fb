"""open_clip as a reference, apart from tests/reference.py because importing it (and timm) takes seconds."""

import warnings
from typing import Any

from tests import reference  # declares torchvision's operators, which open_clip needs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import open_clip

torch = reference.torch


def open_clip_config(name: str) -> dict[str, Any]:
    """The arguments of open_clip's CLIP for one of its published configurations."""
    config = open_clip.get_model_config(name)
    assert config is not None, name
    return config
