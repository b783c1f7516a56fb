"""jvlm: vision-language models in JAX, from a CPU smoke test to a TPU pod.

m = jvlm.load("path/to/any/supported/dir")
out = m.model.apply({"params": m.params, **m.state}, image=..., tokens=...)
jvlm.save(m, "dir", format="hf")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jvlm.interop.pretrained import Pretrained
    from jvlm.train.pretrained import load, save

__all__ = ["Pretrained", "load", "save"]

_HOMES = {"load": "jvlm.train.pretrained", "save": "jvlm.train.pretrained", "Pretrained": "jvlm.interop.pretrained"}


def __getattr__(name: str) -> Any:
    # Lazily, so that `jvlm --help` imports no jax.
    if name not in _HOMES:
        raise AttributeError(f"module 'jvlm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
