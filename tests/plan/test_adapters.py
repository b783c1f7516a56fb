"""The accounting of adapters over shapes gives the figures that papers publish."""

import jax
import jax.numpy as jnp

from jvlm import models
from jvlm.plan.adapters import parameters, storage
from tests.models_util import abstract


def test_lora_of_gpt3_at_rank_4_trains_eighteen_million() -> None:
    # arXiv:2106.09685, table 4 and section 4.2: 175B, query and value projections
    fields = dict(width=12288, depth=96, num_heads=96, mlp_dim=49152, vocab_size=50257, length=2048)
    model = models.create({"family": "decoder", "variant": "gpt2", **fields})
    shapes, _ = abstract(model)
    trainable, total = parameters(shapes["params"], dict(kind="lora", rank=4))
    assert trainable == 96 * 2 * 2 * 4 * 12288  # 18.9 million, the paper's "18M" in table 15
    assert 174e9 < total < 176e9
    assert trainable / total < 1.1e-4


def test_four_bits_are_counted_as_four_bits() -> None:
    tree = dict(a=jax.ShapeDtypeStruct((3, 5), jnp.int4), b=jax.ShapeDtypeStruct((7,), jnp.bfloat16))
    assert storage(tree) == 8 + 14
