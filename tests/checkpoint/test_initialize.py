"""Partial loading copies what is the same, resizes positions as the published code does, and names all else."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jvlm.checkpoint.initialize import Positions, initialize_from
from jvlm.checkpoint.positions import resize_table
from jvlm.core.errors import UserError
from tests.checkpoint.states import mesh_of
from tests.reference import torch, transformers


def table(length: int, dim: int = 8, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(1, length, dim)), jnp.float32)


@pytest.mark.parametrize("sides", [(7, 14), (14, 7), (5, 6), (16, 9), (1, 4), (4, 1)], ids=str)
def test_a_table_is_resized_as_clip_does_it(sides):
    old, new = sides
    config = transformers.CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=old * 4,
        patch_size=4,
    )
    embeddings: Any = transformers.CLIPVisionModel(config).embeddings
    source = table(1 + old * old)
    with torch.no_grad():
        embeddings.position_embedding.weight.copy_(torch.tensor(np.array(source[0])))
        dummy = torch.zeros(1, 1 + new * new, 8)
        wanted = embeddings.interpolate_pos_encoding(dummy, new * 4, new * 4).numpy()
    found = resize_table(source, 1 + new * new, prefix=1)
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(found[:, 0], source[:, 0])  # the class token is no part of the grid


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_oblong_grids_are_resized_as_torch_does_it(method):
    source = table(5 * 8)
    grid = torch.tensor(np.array(source)).reshape(1, 5, 8, 8).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(grid, size=(9, 3), mode=method, align_corners=False)
    wanted = wanted.permute(0, 2, 3, 1).reshape(1, 27, 8).numpy()
    found = resize_table(source, 27, prefix=0, grid=(5, 8), new_grid=(9, 3), method=method)
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)


def test_jax_image_resize_would_not_do():
    """What the docstring says of it; if this ever fails, the library function may replace ours."""
    source = table(49)
    for new in (4, 14):
        theirs = jax.image.resize(source.reshape(1, 7, 7, 8), (1, new, new, 8), "bicubic").reshape(1, -1, 8)
        ours = resize_table(source, new * new)
        assert jnp.abs(theirs - ours).max() > 0.01


@pytest.mark.parametrize(("length", "new"), [(50, 17), (49, 16), (201, 54)])
def test_the_prefix_is_what_exceeds_a_square(length, new):
    prefix = {50: 1, 49: 0, 201: 5}[length]
    found = resize_table(table(length), new)
    np.testing.assert_array_equal(found, resize_table(table(length), new, prefix=prefix))
    np.testing.assert_array_equal(found[:, :prefix], table(length)[:, :prefix])


def test_leaves_come_from_the_source_and_the_rest_is_named():
    sharding = NamedSharding(mesh_of(8), PartitionSpec("fsdp"))
    target = {
        "image": {"kernel": jnp.zeros((16, 4)), "pos_embed": jnp.zeros((1, 17, 8))},
        "text": {"kernel": jax.ShapeDtypeStruct((16, 2), jnp.float32, sharding=sharding)},
        "head": {"kernel": jnp.full((4, 3), 7.0)},
    }
    rng = np.random.default_rng(0)
    source = {
        "image": {"kernel": jnp.asarray(rng.normal(size=(16, 4)), jnp.bfloat16), "pos_embed": table(10)},
        "text": {"kernel": rng.normal(size=(16, 2)).astype(np.float32)},
        "old_head": {"kernel": np.ones((4, 1000), np.float32)},
    }
    found = initialize_from(target, source)
    assert found.copied == ["image/kernel", "text/kernel"]
    assert found.resized == ["image/pos_embed"]
    assert found.fresh == ["head/kernel"]
    assert found.unused == ["old_head/kernel"]
    assert "fresh: head/kernel" in str(found)
    assert found.params["image"]["kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(found.params["image"]["kernel"], source["image"]["kernel"].astype(jnp.float32))
    np.testing.assert_array_equal(found.params["image"]["pos_embed"], resize_table(table(10), 17))
    np.testing.assert_array_equal(found.params["text"]["kernel"], source["text"]["kernel"])
    assert found.params["text"]["kernel"].sharding == sharding
    np.testing.assert_array_equal(found.params["head"]["kernel"], 7.0)


@pytest.mark.parametrize(
    ("wanted", "given", "message"),
    [
        ({"a": {"kernel": (4, 3)}}, {"a": {"kernel": (4, 5)}}, r"leaf a/kernel: .*\[4, 5\].*\[4, 3\]"),
        ({"pos_embed": (16, 8)}, {"pos_embed": (9, 8)}, r"leaf pos_embed: .*\[9, 8\]"),  # a text table
        ({"pos_embed": (1, 16, 4)}, {"pos_embed": (1, 9, 8)}, "leaf pos_embed"),
        ({"pos_embed": (1, 18, 8)}, {"pos_embed": (1, 10, 8)}, "leaf pos_embed: 17 positions after 1 token"),
        ({"b": {"kernel": (4, 3)}}, {"c": {"kernel": (4, 3)}}, "nothing to start from: .*b/kernel"),
    ],
    ids=["shape", "text", "width", "grid", "nothing"],
)
def test_what_does_not_fit_is_an_error_that_names_the_leaf(wanted, given, message):
    def ones(shapes):
        return jax.tree.map(jnp.ones, shapes, is_leaf=lambda node: isinstance(node, tuple))

    with pytest.raises(UserError, match=message):
        initialize_from(ones(wanted), ones(given))


def test_integers_are_not_turned_into_floats():
    with pytest.raises(UserError, match="leaf a: the source is int8, the model float32"):
        initialize_from({"a": jnp.ones(3)}, {"a": jnp.ones(3, jnp.int8)})


def test_a_rule_sets_method_and_grids():
    rule = Positions("*tower/pos_embed", prefix=0, grid=(2, 3), new_grid=(3, 4), method="bilinear")
    found = initialize_from({"tower": {"pos_embed": table(12)}}, {"tower": {"pos_embed": table(6)}}, positions=[rule])
    wanted = resize_table(table(6), 12, prefix=0, grid=(2, 3), new_grid=(3, 4), method="bilinear")
    np.testing.assert_array_equal(found.params["tower"]["pos_embed"], wanted)
