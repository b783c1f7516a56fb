"""peft as a reference, apart from tests/reference.py because importing it takes seconds."""

import warnings
from typing import Any

from tests import reference  # torch on one thread

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft as _peft

peft: Any = _peft
torch = reference.torch
