"""No device holds more than a block of logits: in the compiled program, and in bytes on a pod."""

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from math import prod
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jvlm.losses.ring import contrastive_loss
from jvlm.plan.hlo import read_program
from tests.losses.test_ring import make_mesh

ROOT = Path(__file__).resolve().parents[2]


def compiled_text(kind: str, **options) -> str:
    """The compiled loss and gradients of 128 pairs of width 4 on 8 devices."""
    mesh = make_mesh(8)

    def loss(zimg, ztxt, scale, bias):
        return contrastive_loss(kind, zimg, ztxt, scale, bias, mesh=mesh, **options)[0]

    z = jax.ShapeDtypeStruct((128, 4), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3))).lower(z, z, scalar, scalar).compile().as_text() or ""


def largest_array(kind: str, **options) -> int:
    """Elements of the largest array of the program."""
    text = compiled_text(kind, **options)
    shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", text)
    return max(prod(int(n) for n in shape.split(",")) for shape in shapes)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_largest_array_is_a_block(kind):
    # 16 pairs a device: with a device's rows against all columns there would be 16 x 128.
    assert largest_array(kind, bidirectional=False) == 16 * 16
    assert largest_array(kind) == 16 * 8
    assert largest_array(kind, block=2) <= 16 * 4  # then the embeddings are as large
    assert largest_array(kind, form="global") >= 16 * 128


def sent_by_direction(kind: str, **options) -> list[int]:
    """Bytes that a device sends each way round, in the order of the directions' pairs."""
    ways = Counter()
    for collective in read_program(compiled_text(kind, **options)).collectives:
        if collective.kind == "collective-permute":
            ways[tuple(sorted(collective.groups))] += collective.bytes
    return [ways[pairs] for pairs in sorted(ways)]


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_both_ways_round_carry_half_of_the_bytes(kind):
    (one_way,) = sent_by_direction(kind, bidirectional=False)
    assert sent_by_direction(kind) == [one_way // 2] * 2


needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu (the extra `tpu`)")


@needs_libtpu
def test_memory_and_flops_on_a_pod_stay_within_their_limits():
    rows = benchmark("--batch", "32768", "--form", "ring")["rows"]
    assert [row["kind"] for row in rows] == ["softmax", "sigmoid"]
    for row in rows:
        assert row["peak_mb"] <= 25
        assert row["flop_units"] <= {"softmax": 4, "sigmoid": 3}[row["kind"]]


def benchmark(*arguments: str) -> dict:
    command = [sys.executable, "benchmarks/contrastive_memory.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@needs_libtpu
def test_memory_does_not_grow_from_8_to_4096_chips() -> None:
    rows = benchmark("--scaling", "64", "--slices", "v5p:2x2x2", "v5p:16x16x16")["rows"]
    assert [(row["kind"], row["chips"]) for row in rows] == [
        ("softmax", 8), ("softmax", 4096), ("sigmoid", 8), ("sigmoid", 4096),
    ]  # fmt: skip
    for small, large in (rows[:2], rows[2:]):
        assert large["batch"] == 512 * small["batch"]
        assert large["peak_mb"] <= 1.02 * small["peak_mb"]


@needs_libtpu
def test_a_link_s_direction_carries_half_of_a_one_way_ring_s_bytes() -> None:
    options = ("--topology", "v5p:2x2x2", "--batch", "8192", "--form", "ring", "one_way")
    rows = {(row["kind"], row["form"]): row for row in benchmark(*options)["rows"]}
    for kind in ("softmax", "sigmoid"):
        half, whole = (rows[kind, form]["sent_one_direction_mb"] for form in ("ring", "one_way"))
        assert 0 < half <= 0.5 * whole + 0.1
