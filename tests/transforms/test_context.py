"""CoOp: negative ids name learned vectors, the preprocessing puts them before a text, training moves nothing else."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jvlm
from jvlm.core import leaves
from jvlm.core.errors import ConfigError, UserError
from jvlm.core.tree import flatten
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.tokenizers import clip_tokenizer
from jvlm.train.loop import train
from jvlm.train.setup import setup
from jvlm.transforms.adapters import attach, merge
from jvlm.transforms.context import Context
from jvlm.transforms.methods import make_method
from tests.train.cases import toy_config

TABLE = "text_tower/token_embed/embedding"


def processor(context: int = 0, classes: tuple[str, ...] = ()) -> Processor:
    tokenizer = clip_tokenizer()
    text = TextSpec(length=9, pad_id=tokenizer.pad_id, context=context, classes=classes)
    return Processor(text=text, tokenizer=tokenizer)


def test_negative_ids_are_rows_of_the_context() -> None:
    table = jnp.arange(12.0).reshape(6, 2)
    leaf = Context(table, jnp.asarray([[100.0, 101.0], [200.0, 201.0]]))
    ids = jnp.asarray([[5, -1, -2, 0]])
    wanted = [[[10, 11], [100, 101], [200, 201], [0, 1]]]
    assert leaves.take(leaf, ids, jnp.float32).tolist() == wanted
    assert leaf.shape == (6, 2)
    x = jnp.ones((1, 2))
    assert (leaves.attend(x, leaf) == leaves.attend(x, table)).all()
    grad = jax.grad(lambda rows: leaves.take(leaf.replace(rows=rows), ids, jnp.float32).sum())(leaf.rows)
    assert grad.tolist() == [[1, 1], [1, 1]]
    with pytest.raises(UserError, match="context adapter at x is no change of a kernel"):
        merge({"x": leaf})


def test_the_context_stands_after_the_start_token_and_the_end_token_stays() -> None:
    plain, learned = processor().texts(["a cat", "a cat and a dog in a box"]), processor(context=3)
    tokens = learned.texts(["a cat", "a cat and a dog in a box"])
    start, end = plain[0, 0], plain[1, -1]
    assert tokens[0].tolist() == [start, -1, -2, -3, *plain[0, 1:6].tolist()]
    assert tokens[1].tolist() == [start, -1, -2, -3, *plain[1, 1:5].tolist(), end]
    again = Processor.from_dict(learned.to_dict())
    assert again.text == learned.text and again.fingerprint() == learned.fingerprint() != processor().fingerprint()


def test_each_class_has_a_context_of_its_own() -> None:
    learned = processor(context=2, classes=("cat", "dog"))
    assert [row[1:3].tolist() for row in learned.texts(["dog", "cat", ""])] == [[-3, -4], [-1, -2], [-1, -2]]
    with pytest.raises(UserError, match="for each of its classes only; did you mean 'dog'"):
        learned.texts(["dogs"])


def test_a_run_learns_the_context_alone_and_keeps_it(tmp_path: Path) -> None:
    train(toy_config("steps=2", "export=hf"), str(tmp_path / "base"), quiet=True)
    base = tmp_path / "base" / "export"
    config = toy_config("steps=3", f"init={base}", "adapter={'kind': 'coop', 'context': 4}")
    train(config, str(tmp_path / "run"), quiet=True)
    plain, found = jvlm.load(base), jvlm.load(tmp_path / "run")
    leaf = flatten(found.params)[TABLE]
    start = flatten(attach(plain.params, make_method(dict(kind="coop", context=4)), jax.random.key(0)))[TABLE]
    assert isinstance(leaf, Context) and leaf.rows.shape == start.rows.shape == (4, 16)
    assert (leaf.base == flatten(plain.params)[TABLE]).all()
    for path, array in flatten(found.params).items():
        if path != TABLE:
            np.testing.assert_array_equal(array, flatten(plain.params)[path])
    tokens = found.processor.texts(["a cat"])
    assert tokens[0, 1:5].tolist() == [-1, -2, -3, -4]
    fresh = setup(config).processor
    assert fresh.text == found.processor.text


def test_an_export_of_what_does_not_merge_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="kind 'coop' cannot be merged into an export"):
        setup(toy_config("adapter={'kind': 'coop', 'context': 4}", "export=hf"))


def test_a_context_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"adapter.context = 14 leaves no room for words; give less than 14"):
        setup(toy_config("adapter={'kind': 'coop', 'context': 14}"))
