"""What a program sets up before it computes."""

import os
import platform
import subprocess
import sys

import pytest

# Prints the page faults of a program that has run ten times, in units of the pages of its argument.
_SCRIPT = """
import resource, sys
import jax, jax.numpy as jnp
from jvlm.train import runtime
if sys.argv[1] == "start":
    runtime.start()
f = jax.jit(lambda x: jnp.cumsum(x @ x)[::7].sum())
x = jnp.ones((3000, 3000))
for index in range(20):
    if index == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    f(x).block_until_ready()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults * resource.getpagesize() / x.nbytes / 10)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc is what is set")
def test_temporaries_of_a_step_reuse_memory_on_a_cpu(tmp_path):
    def faults(mode: str) -> float:
        command = [sys.executable, "-c", _SCRIPT, mode]
        env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        return float(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)

    assert faults("start") < 0.5 < 1.5 < faults("leave")
