"""What the papers on bridges say of their sizes, counted without allocating anything."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jvlm import models
from jvlm.core.tree import count
from jvlm.models.blip2_pretrain import QUERY_FIELDS
from jvlm.models.decoder import decoder
from jvlm.models.qformer import QFormer
from jvlm.nn.axes import split
from jvlm.nn.gated import GatedCross, Gates
from jvlm.nn.resampler import Resampler
from jvlm.train.config import load_config
from jvlm.train.setup import setup
from jvlm.transforms.freeze import partition
from tests.models_util import abstract

FLAMINGO_TRAINED = {"3B": 1.4e9, "9B": 1.8e9, "80B": 10.2e9}
"""arXiv:2301.12597, table 2: what BLIP-2 is compared with."""
FLAMINGO: dict[str, Any] = {
    "3B": dict(language=(2048, 24), every=1, published=("1.4B", "1.2B", "3.2B")),
    "9B": dict(language=(4096, 32), every=4, published=("7.1B", "1.6B", "9.3B")),
    "80B": dict(language=(8192, 80), every=7, published=("70B", "10B", "80B")),
}
"""arXiv:2204.14198, table 1: width and depth of the language model, a gate before every n-th layer; parameters of the
language model, of the gates, and of all."""
VISION = 435_000_000
"""NFNet-F6 without its classifier, as that table has it."""


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


def resampler() -> int:
    """Parameters of Flamingo's perceiver resampler behind NFNet-F6, whose features are 3072 wide."""
    heads: dict[str, Any] = dict(num_heads=16, head_dim=128, act="relu2")
    model = Resampler(num_queries=64, depth=6, width=1536, mlp_dim=4 * 1536, **heads)
    return counted(model, jax.ShapeDtypeStruct((1, 4, 3072), jnp.float32))


def gates(width: int, depth: int, every: int) -> int:
    """Parameters of the gated blocks: heads of 128, plain MLPs of four times the width.

    The paper does not say how wide what their keys and values read is; at the width of the language model, and at no
    other that it names, all three come out as published.
    """
    block = GatedCross(width // 128, 128, 4 * width, act="relu2", gated=False)
    x, mask = jax.ShapeDtypeStruct((1, 4, width), jnp.float32), jax.ShapeDtypeStruct((1, 1, 4, 4), jnp.bool_)
    return counted(Gates(block, -(-depth // every)), x, x, mask)


def chinchilla(width: int, depth: int) -> int:
    """Parameters of the frozen language model (arXiv:2203.15556): 32,000 tokens, a tied head, heads of 128.

    Its relative positions (arXiv:1901.02860, section 3.3), which `Decoder` has not, add a kernel a layer and two
    vectors.
    """
    fields: dict[str, Any] = dict(
        vocab_size=32_000, length=2048, num_heads=width // 128, mlp_dim=4 * width, gated=False, act="gelu"
    )
    model = decoder(width=width, depth=depth, rope={}, **fields)
    return counted(model, jax.ShapeDtypeStruct((1, 4), jnp.int32)) + (depth * width + 2) * width


def counted(model: Any, *given: Any) -> int:
    shapes, _ = split(dict(jax.eval_shape(model.init, jax.random.key(0), *given)))
    return count(shapes["params"])


def digits(number: int, published: str) -> str:
    """`number` in billions, with as many places as `published` has."""
    places = len(published.removesuffix("B").partition(".")[2])
    return f"{number / 1e9:.{places}f}B"


def test_flamingo_s_resampler_has_194_million_parameters() -> None:
    assert round(resampler() / 1e6) == 194


@pytest.mark.parametrize("size", FLAMINGO)
def test_flamingo_has_the_published_size(size: str) -> None:
    width, depth = FLAMINGO[size]["language"]
    language, between = chinchilla(width, depth), gates(width, depth, FLAMINGO[size]["every"])
    whole = language + between + resampler() + VISION
    published = FLAMINGO[size]["published"]
    assert tuple(map(digits, (language, between, whole), published)) == published
    trained = between + resampler()
    # BLIP-2's table adds the rounded 10 B and 0.2 B for the largest; what is counted here is 9.9 B.
    assert digits(trained, "1.4B") == dict(zip(FLAMINGO, ("1.4B", "1.8B", "9.9B")))[size]
