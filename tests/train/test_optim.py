"""Optimizers: every name trains, rates and decay follow patterns, schedules have the stated ends."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from jvlm.core.errors import ConfigError
from jvlm.train.optim import OPTIMIZERS, make_optimizer, schedule
from jvlm.transforms.freeze import partition

PARAMS: dict[str, Any] = {
    "tower": {"layers": {"up": {"kernel": jnp.ones((2, 4, 8)), "bias": jnp.ones((2, 8))}}},
    "proj": {"kernel": jnp.ones((4, 3))},
    "table": {"embedding": jnp.ones((5, 4))},
    "logit_scale": jnp.ones(()),
}
RNG = np.random.default_rng(0)
# Of full rank: Newton-Schulz amplifies the rounding in directions of a zero singular value.
GRADS = jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape), jnp.float32), PARAMS)
CONSTANT = dict(schedule=dict(name="constant"))


def update(fields: dict[str, Any], params: Any = PARAMS, grads: Any = GRADS) -> Any:
    optimizer, _ = make_optimizer({"lr": 0.1, **CONSTANT, **fields}, params, steps=10)
    return optimizer.update(grads, optimizer.init(params), params)[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_every_parameter_and_keeps_its_structure(name: str) -> None:
    updates = jax.jit(lambda: update({"name": name}))()
    assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)
    for leaf in jax.tree.leaves(updates):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


def test_adamw_equals_optax() -> None:
    mine = update({"name": "adamw", "weight_decay": 0.3})
    mask = jax.tree.map(lambda x: x.ndim >= 2, PARAMS)
    mask["tower"]["layers"]["up"]["bias"] = False  # [layers, features]: a vector a layer
    theirs = optax.adamw(0.1, weight_decay=0.3, mask=mask)
    expected = theirs.update(GRADS, theirs.init(PARAMS), PARAMS)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), mine, expected)


def test_muon_equals_optax_on_a_kernel_and_layer_by_layer_on_a_stack() -> None:
    mine = update({"name": "muon"})
    theirs = contrib.muon(0.1, adam_learning_rate=0.01)

    def alone(kernel: Any, grad: Any) -> Any:
        return theirs.update(grad, theirs.init(kernel), kernel)[0]

    np.testing.assert_allclose(
        mine["proj"]["kernel"], alone(PARAMS["proj"]["kernel"], GRADS["proj"]["kernel"]), rtol=1e-5, atol=1e-7
    )
    stack, grads = PARAMS["tower"]["layers"]["up"]["kernel"], GRADS["tower"]["layers"]["up"]["kernel"]
    for layer in range(2):
        expected = alone(stack[layer], grads[layer])
        np.testing.assert_allclose(mine["tower"]["layers"]["up"]["kernel"][layer], expected, rtol=1e-5, atol=1e-7)


def test_patterns_scale_the_rate_and_the_decay_and_the_first_match_wins() -> None:
    plain = update({"name": "sgd", "weight_decay": 0.5})
    changed = update(
        {
            "name": "sgd",
            "weight_decay": 0.5,
            "lr_mult": [("proj/*", 0.1), ("*", 2.0)],
            "decay_mult": [("table/*", 0.0)],
        }
    )
    np.testing.assert_allclose(changed["proj"]["kernel"], 0.1 * plain["proj"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(changed["logit_scale"], 2.0 * plain["logit_scale"], rtol=1e-6)
    np.testing.assert_allclose(changed["table"]["embedding"], -0.1 * 2.0 * GRADS["table"]["embedding"], rtol=1e-6)


def test_a_frozen_leaf_has_no_state_and_no_update() -> None:
    trained, _ = partition(PARAMS, ("tower/*",))
    grads, _ = partition(GRADS, ("tower/*",))
    for name in OPTIMIZERS:
        updates = update({"name": name, "weight_decay": 0.1}, trained, grads)
        assert jax.tree.structure(updates) == jax.tree.structure(trained)


@pytest.mark.parametrize(("name", "last"), [("cosine", 0.1), ("linear", 0.1), ("constant", 1.0)])
def test_a_schedule_warms_up_from_zero_and_ends_where_it_says(name: str, last: float) -> None:
    shape = schedule(2.0, 100, name=name, warmup=10, end=0.1)

    def rate(step: int) -> float:
        return np.asarray(shape(step)).item()

    assert rate(0) == 0.0
    assert rate(10) == pytest.approx(2.0)
    assert rate(100) == pytest.approx(2.0 * last)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "adamv"}, "did you mean 'adamw'"),
        ({"b3": 0.9}, "no field 'b3'"),
        ({"schedule": {"warmpu": 3}}, "did you mean 'warmup'"),
        ({"lr_mult": [("prj/*", 0.1)]}, "matches no parameter"),
        ({"lr": None}, "needs the field 'lr'"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_optimizer({"lr": 0.1, **CONSTANT, **fields}, PARAMS, steps=10)
