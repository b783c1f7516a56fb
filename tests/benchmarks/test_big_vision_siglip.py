"""The comparison with big_vision, on a stand-in for its clone: a package that needs what the real one needs."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import big_vision_siglip as bench
from jvlm.losses.contrastive import sigmoid_loss

TOY: dict[str, Any] = dict(
    image=dict(width=16, depth=1, num_heads=2, mlp_dim=32, patch_size=8, image_size=16),
    text=dict(vocab_size=32, length=4, width=16, depth=1, num_heads=2, mlp_dim=32),
)
NAMES = "import jax\nfrom tensorflow.io import gfile\n\nleaves = jax.tree_leaves\n"
TOWERS = """
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from big_vision import names


class Model(nn.Module):
    image: Any
    text: Any
    out_dim: Any
    temperature_init: float
    bias_init: float

    @nn.compact
    def __call__(self, image, tokens, train=False):
        zimg = nn.Dense(self.out_dim[1])(nn.with_logical_constraint(image.mean((1, 2)), ("act_batch", None)))
        ztxt = nn.Embed(self.text["vocab_size"], self.out_dim[1])(tokens).mean(1)
        t = self.param("t", nn.initializers.constant(jnp.log(self.temperature_init)), (1,))
        b = self.param("b", nn.initializers.constant(self.bias_init), (1,))
        assert names.leaves({"a": t})
        return zimg, ztxt, {"t": jnp.exp(t), "b": b}
"""
# The pairwise sigmoid loss (arXiv:2303.15343, algorithm 1), closing over what the trainer's does.
TRAINER = """
def main():
    def update_fn(state, rng, batch):
        def loss_fn(params):
            options = {"train": True, "rngs": {"dropout": rng_model}}
            zimg, ztxt, extras = model.apply({"params": params}, images, labels, **options)
            logits = zimg @ ztxt.T * extras["t"] + extras["b"]
            labels_pm = 2 * jnp.eye(len(zimg)) - 1
            return -jnp.sum(jax.nn.log_sigmoid(labels_pm * logits)) / len(zimg)
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clone")
    files = {
        "big_vision/__init__.py": "",
        "big_vision/names.py": NAMES,
        bench.MODEL.replace(".", "/") + ".py": TOWERS,
        bench.TRAINER: TRAINER,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def shapes(batch: int) -> tuple[Any, Any]:
    return jax.ShapeDtypeStruct((batch, 16, 16, 3), np.float32), jax.ShapeDtypeStruct((batch, 4), np.int32)


def test_what_jax_removed_is_there_while_the_clone_runs_and_nothing_is_left_behind(clone: Path) -> None:
    before = set(sys.modules), list(sys.path)
    assert not hasattr(jax, "tree_leaves")
    with bench.imported(clone) as module:
        side = bench.big_vision(module, clone, TOY, *shapes(2))
        assert hasattr(jax, "tree_leaves") and "big_vision.names" in sys.modules
    assert not hasattr(jax, "tree_leaves")
    left = set(sys.modules) - before[0]
    assert not [name for name in left if name.startswith(("big_vision", "tensorflow"))] and sys.path == before[1]
    assert side.params["t"].shape == (1,)


def test_the_loss_of_the_trainer_s_file_is_the_one_of_the_library(clone: Path) -> None:
    rng = np.random.default_rng(0)
    zimg, ztxt = (jnp.asarray(rng.normal(size=(4, 8)), jnp.float32) for _ in range(2))

    class Towers:
        def apply(self, variables: Any, images: Any, labels: Any, **_: Any) -> Any:
            return zimg, ztxt, variables["params"]

    names = dict(jax=jax, jnp=jnp, model=Towers(), images=None, labels=None, rng_model=None)
    found = bench.published_loss(clone, names)({"t": jnp.float32(3.0), "b": jnp.float32(-2.0)})
    total, weight = sigmoid_loss(zimg, ztxt, jnp.float32(3.0), jnp.float32(-2.0))
    np.testing.assert_allclose(found, total / weight, rtol=1e-6)


def test_both_sides_are_compiled_for_the_same_mesh_and_what_differs_is_named(clone: Path) -> None:
    report = bench.compare(clone, TOY, 16, jax.devices())
    ours, theirs = report["jvlm"], report["big_vision"]
    assert report["chips"] == 8 and report["settings"]["dtype"] == "float32"
    for side in (ours, theirs):
        assert side["dtypes"] == ["float32"] and side["flops"] > 0 and side["unknown_loops"] == 0
        assert {moved["axis"] for moved in side["collectives"]} == {"data"}
    # A ring's texts and gradients against the gathered texts and their gradient.
    assert "collective-permute" in {moved["kind"] for moved in ours["collectives"]}
    assert "collective-permute" not in {moved["kind"] for moved in theirs["collectives"]}
    assert {"parameters", "flops"} <= set(report["broken_limits"])  # the stand-in has next to no towers


def test_more_work_or_messages_and_as_much_memory_break_the_limits() -> None:
    side = dict(flops=10, collective_bytes=10, parameters=3, dtypes=["float32"], peak_bytes=10)
    assert bench.broken_limits({**side, "peak_bytes": 9}, side) == []
    assert bench.broken_limits(side, side) == ["peak_bytes"]
    worse = dict(side, flops=11, collective_bytes=11, peak_bytes=9)
    assert bench.broken_limits(worse, side) == ["flops", "collective_bytes"]
