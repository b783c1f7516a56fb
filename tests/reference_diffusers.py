"""diffusers, the reference of everything that paints; its torch runs on one thread like the other references."""

import warnings
from typing import Any

from tests.reference import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers as _diffusers

# Its classes are made by decorators and loaded lazily, which a type checker does not follow.
diffusers: Any = _diffusers
diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()

__all__ = ["diffusers", "torch"]
