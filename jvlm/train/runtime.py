"""What every program that computes sets up once: compilation cache, memory of a CPU, on a pod the other hosts."""

import ctypes
import os
import platform
from pathlib import Path

import jax


def start(convolves: bool = False) -> None:
    """Starts `jax.distributed` where the environment describes a cluster, and caches compiled programs.

    A cluster is described by `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`; with
    `JVLM_DISTRIBUTED=auto` by what jax finds on its own, such as the metadata of TPU VMs, of several slices too.
    The cache lies in `JAX_COMPILATION_CACHE_DIR`, by default `~/.cache/jvlm/xla`. With
    `JAX_PLATFORMS=cpu` freed memory is kept for the next step, and a program that `convolves` all channels with all is
    compiled for that.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        _keep_freed_memory()
        if convolves:
            _choose_convolutions()
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        jax.distributed.initialize(
            coordinator_address=os.environ["JAX_COORDINATOR_ADDRESS"],
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
            process_id=int(os.environ["JAX_PROCESS_ID"]),
        )
    elif os.environ.get("JVLM_DISTRIBUTED") == "auto" or os.environ.get("TPU_WORKER_HOSTNAMES", "").count(","):
        jax.distributed.initialize()
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jvlm" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _choose_convolutions() -> None:
    """Keeps XLA's CPU backend from handing convolutions to YNNPACK, whose dense ones are slower than Eigen's.

    Those of one channel each are faster, so this is not for every program. It takes effect before the first compilation
    of the process, which a version of jaxlib that does not know the option would end.
    """
    option, given = "--xla_cpu_experimental_ynn_fusion_type", os.environ.get("XLA_FLAGS", "")
    if jax.__version_info__[:2] == (0, 10) and option not in given:
        os.environ["XLA_FLAGS"] = f"{given} {option}=-individual_convolution".strip()


def _keep_freed_memory() -> None:
    """Lets glibc reuse the memory of a program's temporaries instead of returning it to the kernel after every run.

    XLA's CPU client allocates the temporaries of each execution anew. glibc maps such large blocks and unmaps them when
    they are freed, so every step pays for the first touch of every page again: a fifth of the CPU time of the demo.
    One arena is needed because those of other threads cannot grow beyond 64 MB and fall back to mapping; a thread that
    has begun keeps its own, so this comes before jax starts its threads.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    arena_max, mmap_max, trim_threshold, top_pad = -8, -4, -1, -2  # malloc.h
    for option, value in ((arena_max, 1), (mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 << 20)):
        mallopt(option, value)
