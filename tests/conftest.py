"""Eight CPU devices and a compilation cache for every test; set before jax is imported anywhere."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Unoptimized code: most of the time of a test is spent compiling programs that run once, on a handful of numbers.
# And three times as long for eight devices on a busy core to wait for each other, after which XLA aborts the process.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_collective_call_terminate_timeout_seconds=120",
    ]
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
# One thread per worker for the reference implementations: pytest-xdist already fills the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax

import tests.typecheck as typecheck  # what `--jaxtyping-packages` names has to be imported before jvlm is

__all__ = ["typecheck"]
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "xla"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
