"""Eight CPU devices and a compilation cache for every test; set before jax is imported anywhere."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

from tests import compiler

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = compiler.flags(devices=8)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
# One thread per worker for the reference implementations: pytest-xdist already fills the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import pytest

import tests.typecheck as typecheck  # what `--jaxtyping-packages` names has to be imported before jvlm is

__all__ = ["typecheck"]
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "xla"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
# Read by now. What compiles for TPUs reads them later, and aborts the process over the last of the quick ones.
jax.devices()
os.environ["XLA_FLAGS"] = compiler.flags(devices=8, quick=compiler.QUICK[:-1])


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file() -> Iterator[None]:
    """Compiled programs go when a file is done: each takes mappings of memory, and a process that runs out of those
    (65,530 by default on Linux) dies in the compiler."""
    yield
    jax.clear_caches()
    gc.collect()
