"""A small run of a shipped configuration, planned for slices of TPUs; each compiled once a session."""

import importlib.util
from functools import cache
from typing import Any

import pytest
from ml_collections import ConfigDict

from jvlm.plan.compile import Plan, plan
from jvlm.plan.topologies import describe
from jvlm.train.config import load_config

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu (the extra `tpu`)")

CLIP: dict[str, Any] = dict(
    family="clip",
    embed_dim=128,
    dtype="bfloat16",
    scan=True,
    remat="full",
    image=dict(width=256, depth=3, num_heads=2, mlp_dim=1024, patch_size=14, image_size=56),
    text=dict(vocab_size=512, length=16, width=128, depth=2, num_heads=2, mlp_dim=512),
)
BATCH = 512
MESH = {"data": 2, "fsdp": 4}


def small_clip(batch: int = BATCH, remat: str = "full", **overrides: Any) -> ConfigDict:
    """`clip_l14_laion_pretrain.py` with small towers on eight chips."""
    settings = {"batch_size": batch, "model": CLIP | {"remat": remat}, "mesh": {"preset": "fsdp", "shape": MESH}}
    pairs = [f"{key}={value!r}" for key, value in (settings | overrides).items()]
    return load_config("clip_l14_laion_pretrain.py", pairs)


@cache
def planned(topology: str = "v5e:2x4", batch: int = BATCH, remat: str = "full") -> Plan:
    return plan(small_clip(batch, remat), describe(topology))
