"""What the papers on bridges say of their sizes, counted without allocating anything."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jvlm import models
from jvlm.core.tree import count
from jvlm.models.blip2_pretrain import QUERY_FIELDS
from jvlm.models.qformer import QFormer
from jvlm.nn.axes import split
from jvlm.train.config import load_config
from jvlm.train.setup import setup
from jvlm.transforms.freeze import partition
from tests.models_util import abstract

FLAMINGO_TRAINED = {"3B": 1.4e9, "9B": 1.8e9, "80B": 10.2e9}
"""arXiv:2301.12597, table 2: what BLIP-2 is compared with."""


@functools.cache
def qformer(width: int) -> int:
    """Parameters of BLIP-2's Q-Former with its text branch, beside a tower of width 1408, and of its projection."""
    model = QFormer(**QUERY_FIELDS, vocab_size=30_523, length=512)
    given: Any = (jax.ShapeDtypeStruct((1, 4, 1408), jnp.float32), jax.ShapeDtypeStruct((1, 8), jnp.int32))
    shapes, _ = split(dict(jax.eval_shape(model.init, jax.random.key(0), *given)))
    return count(shapes["params"]) + (768 + 1) * width


def test_blip2_trains_188_million_parameters_54_times_fewer_than_flamingo_80b() -> None:
    found = qformer(2560)  # OPT-2.7B's width
    assert round(found / 1e6) == 188
    assert int(FLAMINGO_TRAINED["80B"] / found) == 54


@pytest.mark.parametrize(("variant", "billions"), [("1.5-7b", 7.06), ("1.5-13b", 13.35)])
def test_llava_has_the_published_size(variant: str, billions: float) -> None:
    shapes, _ = abstract(models.create(dict(family="llava", variant=variant)))
    assert round(count(shapes["params"]) / 1e9, 2) == billions


def test_only_the_bridge_is_trained_where_one_line_freezes_the_rest() -> None:
    run = setup(load_config("configs/llava_7b_align.py", ["mesh.shape={'data': 8}"]), abstract=True)
    trained, held = partition(run.params, run.frozen)
    # Two layers, 1024 to 4096 to 4096 (arXiv:2310.03744, section 3.3).
    assert sum(leaf.size for leaf in jax.tree.leaves(trained)) == 1025 * 4096 + 4097 * 4096
    assert sum(leaf.size for leaf in jax.tree.leaves(held)) == 7_063_427_072 - 1025 * 4096 - 4097 * 4096
