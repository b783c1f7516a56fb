"""What a program sets up before it computes."""

import os
import platform
import subprocess
import sys

import jax
import pytest

from jvlm.train import runtime

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


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"JVLM_DISTRIBUTED": "auto"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "a"}, None),
        (
            {"JAX_COORDINATOR_ADDRESS": "host:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"},
            {"coordinator_address": "host:1234", "num_processes": 4, "process_id": 2},
        ),
    ],
)
def test_the_environment_describes_the_cluster(variables, expected, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: calls.append(arguments))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    for name in ("JVLM_DISTRIBUTED", "TPU_WORKER_HOSTNAMES", "JAX_COORDINATOR_ADDRESS", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    runtime.start()
    assert calls == ([] if expected is None else [expected])


# Prints whether a convolution is handed to YNNPACK.
_CONVOLUTION = """
import sys
import jax, jax.numpy as jnp
from jvlm.train import runtime
runtime.start(convolves=sys.argv[1] == "convolves")
dims = ("NHWC", "HWIO", "NHWC")
f = jax.jit(lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=dims))
print("ynn_fusion" in f.lower(jnp.ones((1, 8, 8, 64)), jnp.ones((3, 3, 64, 64))).compile().as_text())
"""


@pytest.mark.parametrize("mode", ["convolves", "leave"])
def test_a_program_that_convolves_does_it_by_eigen(mode: str) -> None:
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-c", _CONVOLUTION, mode]
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    assert out.strip() == str(mode == "leave")
