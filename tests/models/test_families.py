"""Properties of every family in MODELS, at tiny size; those of convolutions are in test_diffusion.py."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm import models
from jvlm.core import sharding
from jvlm.core.tree import flatten, map_paths
from tests.models_util import TRANSFORMERS, abstract, initialize, inputs, tiny

AXES = {"layers", "embed", "heads", "mlp", "vocab", "patch", None}
MESHES = {
    "dp": dict(data=8),
    "fsdp": dict(data=2, fsdp=4),
    "fsdp_tp": dict(data=2, fsdp=2, tensor=2),
    "fsdp_sp": dict(data=2, fsdp=2, tensor=2),
}
families = pytest.mark.parametrize("family", TRANSFORMERS)
# Every kind of stack there is, once; and the two that hold what all of them share.
STACKS = ["align", "blip2", "clip", "decoder", "flamingo", "t5"]
PLAIN = ["clip", "decoder"]
stacks = pytest.mark.parametrize("family", STACKS)
# Unoptimized, what a program computes twice is rounded in two ways.
OPTIMIZED: dict[str, Any] = {"xla_backend_optimization_level": 1}


@functools.cache
def initial(family: str) -> tuple[Any, dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """(model, variables, names, inputs of a batch of 8)."""
    model, variables, names = initialize(tiny(family))
    return model, variables, names, inputs(model, batch=8)


def forward(model: Any) -> Callable[..., Any]:
    return jax.jit(lambda variables, given: model.apply(variables, **given))


@functools.cache
def outputs(family: str) -> Any:
    model, variables, _, given = initial(family)
    return forward(model)(variables, given)


def training(model: Any) -> Callable[..., Any]:
    """Outputs as a training step sees them."""

    def run(variables: Any, given: Any) -> Any:
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, **given, train=True, rngs=rngs, mutable=["batch_stats"])[0]

    return jax.jit(run)


def objective(model: Any, options: dict[str, Any] | None = None) -> Callable[..., Any]:
    """A training step's (value, gradient, new state) of a random linear function of every output."""

    def value(params: Any, state: Any, given: Any) -> tuple[jax.Array, Any]:
        rngs = {"dropout": jax.random.key(1)}
        out, new = model.apply({"params": params, **state}, **given, train=True, rngs=rngs, mutable=list(state))
        rng = np.random.default_rng(2)
        terms = [(x * rng.normal(size=x.shape).astype(np.float32)).sum() for x in jax.tree.leaves(out)]
        return jnp.stack(terms).sum(), (out, new)

    return jax.jit(jax.value_and_grad(value, has_aux=True), compiler_options=options)


def parts(variables: dict[str, Any]) -> tuple[Any, Any]:
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


def sharded(family: str, preset: str) -> tuple[jax.sharding.Mesh, Any]:
    """(mesh, variables placed on it)."""
    _, variables, names, _ = initial(family)
    mesh = sharding.make_mesh(MESHES[preset])
    return mesh, jax.device_put(variables, sharding.shard_params(variables, names, mesh, sharding.PRESETS[preset]))


def assert_near(actual: Any, wanted: Any, tolerance: float) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(wanted)
    for (path, b), a in zip(jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(actual), strict=True):
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        difference = np.abs(x - y).max()
        assert difference <= tolerance * max(1.0, np.abs(y).max()), f"{jax.tree_util.keystr(path)}: {difference}"


@pytest.mark.parametrize("family", models.MODELS)
def test_every_kernel_has_logical_names(family: str) -> None:
    shapes, names = abstract(models.create(tiny(family)))
    flat = flatten(names)
    for path, shape in flatten(shapes).items():
        assert len(flat[path]) == shape.ndim, path
        assert set(flat[path]) <= AXES, path
        assert ("/layers/" in path) == ("layers" in flat[path]), path
        if path.endswith(("kernel", "embedding")):
            assert set(flat[path]) - {"layers", None}, path


@families
def test_scanned_equals_unrolled(family: str) -> None:
    model, variables, _, given = initial(family)
    if family == "align":
        given = dict(tokens=given["tokens"])  # only the text tower is a stack
    unrolled = models.create(tiny(family, scan=False))
    shapes = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
    assert shapes(abstract(unrolled)[0]) == shapes(abstract(model)[0])
    programs = [forward(m).lower(variables, given) for m in (unrolled, model)]
    assert ["stablehlo.while" in program.as_text() for program in programs] == [False, True]
    without, with_scan = (program.compile()(variables, given) for program in programs)
    assert_near(without, with_scan, 1e-6)


@pytest.mark.parametrize(
    ("family", "remat"), [(family, "full") for family in STACKS] + [(family, "dots") for family in PLAIN]
)
def test_recomputing_changes_neither_value_nor_gradient(family: str, remat: str) -> None:
    model, variables, _, given = initial(family)
    steps = (objective(m, OPTIMIZED) for m in (models.create(tiny(family, remat=remat)), model))
    recomputed, kept = (step(*parts(variables), given) for step in steps)
    assert_near(recomputed, kept, 1e-6)


@stacks
def test_recomputing_everything_recomputes(family: str) -> None:
    _, variables, _, given = initial(family)
    params, state = parts(variables)

    def products(remat: str) -> int:
        step = objective(models.create(tiny(family, remat=remat, scan=False)))
        return step.lower(params, state, given).as_text().count("stablehlo.dot_general")

    assert products("none") < products("full")


@pytest.mark.parametrize(
    ("family", "preset"),
    [(family, "fsdp_tp") for family in STACKS] + [("clip", "dp"), ("decoder", "fsdp"), ("decoder", "fsdp_sp")],
)
def test_a_sharded_training_step_equals_the_unsharded_one(family: str, preset: str) -> None:
    model, variables, _, given = initial(family)
    mesh, placed = sharded(family, preset)
    if preset != "dp":
        assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(placed["params"]))
    with sharding.use(mesh, sharding.PRESETS[preset]):
        actual = objective(model)(*parts(placed), sharding.put_batch(given, mesh))
    assert_near(actual, objective(model)(*parts(variables), given), 1e-5)


@pytest.mark.parametrize("family", sorted(set(TRANSFORMERS) - set(STACKS)))
def test_sharded_equals_unsharded(family: str) -> None:
    mesh, placed = sharded(family, "fsdp_tp")
    assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(placed["params"]))
    model, _, _, given = initial(family)
    with sharding.use(mesh, sharding.PRESETS["fsdp_tp"]):
        actual = forward(model)(placed, sharding.put_batch(given, mesh))
    assert_near(actual, outputs(family), 1e-5)


@families
def test_bfloat16_stays_near(family: str) -> None:
    model, variables, _, given = initial(family)
    low = models.create(tiny(family, dtype="bfloat16"))
    assert low != model
    assert_near(forward(low)(variables, given), outputs(family), 0.05)


@stacks
def test_stack_of_bfloat16_parameters_is_accepted(family: str) -> None:
    model, variables, _, given = initial(family)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    assert_near(forward(model)(low, given), outputs(family), 0.05)


@families
def test_dropout_is_off_in_evaluation(family: str) -> None:
    _, variables, _, given = initial(family)
    if "text" in models.MODELS[family].tiny:
        dropping = models.create(tiny(family, text=dict(dropout=0.5)))
    else:
        dropping = models.create(tiny(family, dropout=0.5))
    out, reference = forward(dropping)(variables, given), outputs(family)
    assert_near(out, reference, 0.0)
    trained = training(dropping)(variables, given)
    pairs = zip(jax.tree.leaves(trained), jax.tree.leaves(reference), strict=True)
    assert max(float(jnp.abs(a - b).max()) for a, b in pairs) > 1e-3


@pytest.mark.parametrize(("pool", "end"), [("eos", 50), ("highest", 63)])
def test_what_follows_the_end_token_does_not_change_a_clip_text(pool: str, end: int) -> None:
    model, variables, _ = initialize(tiny("clip", text=dict(pool=pool, eos_id=50)))
    tokens = inputs(model)["tokens"] % 50
    tokens[:, 4] = end
    other = tokens.copy()
    other[:, 5:] = (other[:, 5:] + 7) % 50
    run = forward(model)
    assert_near(run(variables, dict(tokens=tokens)).ztxt, run(variables, dict(tokens=other)).ztxt, 0.0)
    other[:, 3] = (other[:, 3] + 7) % 50
    assert np.abs(run(variables, dict(tokens=tokens)).ztxt - run(variables, dict(tokens=other)).ztxt).max() > 1e-3


def test_padding_does_not_change_a_bert_text() -> None:
    model, variables, _, given = initial("bert")
    tokens = np.maximum(given["tokens"][:, :5], 1)
    longer = np.pad(tokens, ((0, 0), (0, 3)))
    short, long = (forward(model)(variables, dict(tokens=x)) for x in (tokens, longer))
    assert_near((short.tokens, short.pooled), (long.tokens[:, :5], long.pooled), 1e-6)


def test_patch_dropout_keeps_the_class_token_and_is_off_in_evaluation() -> None:
    fields = tiny("vit", patch_dropout=0.5, norm_tokens=False, image_size=32)
    model, variables, _ = initialize(fields)
    plain = models.create({**fields, "patch_dropout": 0.0})
    given = inputs(model)
    assert_near(forward(model)(variables, given), forward(plain)(variables, given), 0.0)
    # Blocks of zeros pass their input on, so that the sequence shows what was kept.
    params = map_paths(lambda path, x: x * 0 if path.startswith("blocks/") else x, variables["params"])
    whole = forward(plain)({"params": params}, given).tokens
    out = training(model)({"params": params}, given)
    assert out.tokens.shape[1] == 1 + 8
    assert_near(out.tokens[:, 0], whole[:, 0], 1e-6)
    for kept, sequence in zip(out.tokens, whole):
        at = [int(np.abs(sequence - token).max(-1).argmin()) for token in kept]
        assert at == sorted(set(at))
        assert_near(kept, sequence[np.array(at)], 1e-6)


def test_running_statistics_follow_the_batches_of_training_alone() -> None:
    model, variables, _, given = initial("align")
    params, state = parts(variables)
    _, still = jax.jit(lambda v, given: model.apply(v, **given, mutable=["batch_stats"]))(variables, given)
    assert_near(still["batch_stats"], state["batch_stats"], 0.0)
    (_, (_, moved)), _ = objective(model)(params, state, given)
    before, after = flatten(state["batch_stats"]), flatten(moved["batch_stats"])
    assert before.keys() == after.keys()
    assert all(np.abs(after[path] - before[path]).max() > 0 for path in before)
