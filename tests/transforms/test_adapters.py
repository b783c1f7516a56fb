"""Properties of adapters on every family: identity at the start, merging, switching, sharding, saving."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm import models
from jvlm.checkpoint.manager import Checkpoints
from jvlm.core import leaves, sharding
from jvlm.core.errors import ConfigError, UserError
from jvlm.core.leaves import Leaf
from jvlm.core.tree import flatten, map_arrays, unflatten
from jvlm.nn.dense import Dense
from jvlm.transforms.adapters import (
    activate,
    adapter_names,
    attach,
    detach,
    frozen_paths,
    merge,
    put_on,
    unmerge,
)
from jvlm.transforms.freeze import combine, partition
from jvlm.transforms.methods import make_method
from tests.models_util import TRANSFORMERS, initialize, inputs, tiny

families = pytest.mark.parametrize("family", TRANSFORMERS)
every_family = pytest.mark.parametrize("family", models.MODELS)
UNFUSED: dict[str, Any] = {"xla_disable_hlo_passes": "fusion,cpu-instruction-fusion,dot-library-rewriter,algsimp"}
KINDS: dict[str, dict[str, Any]] = {
    "lora": dict(kind="lora", rank=3),
    "dora": dict(kind="dora", rank=3),
    "ia3": dict(kind="ia3", feedforward=["*mlp/down/kernel"]),
    "bottleneck": dict(kind="bottleneck", rank=3),
}


@functools.cache
def initial(family: str) -> tuple[Any, dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    model, variables, names = initialize(tiny(family))
    return model, variables, names, inputs(model, batch=8)


@functools.cache
def adapted(family: str, kind: str, noise: float = 0.0) -> dict[str, Any]:
    """The parameters of a family with adapters on every kernel, moved off their start by `noise`."""
    params = attached(initial(family)[1]["params"], KINDS[kind])
    return moved(params, noise) if noise else params


def attached(params: dict[str, Any], fields: dict[str, Any], seed: int = 1) -> dict[str, Any]:
    # Every kernel and table, unless it says otherwise.
    everywhere = ["*kernel"] + ["*embedding"] * any(path.endswith("embedding") for path in flatten(params))
    fields = dict(targets=everywhere) | fields
    if not any(path.endswith("mlp/down/kernel") for path in flatten(params)):
        fields = {key: value for key, value in fields.items() if key != "feedforward"}
    return jax.jit(lambda params, key: attach(params, make_method(fields), key))(params, jax.random.key(seed))


def mixture(family: str, kinds: Sequence[str], noise: float = 0.0) -> dict[str, Any]:
    """The kinds in turn, path by path."""
    flats = [flatten(adapted(family, kind, noise)) for kind in kinds]
    return unflatten({path: flats[index % len(kinds)][path] for index, path in enumerate(flats[0])})


def moved(params: dict[str, Any], noise: float) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    trained, frozen = partition(params, plain_paths(params))
    trained = map_arrays(
        lambda _, x: jnp.asarray(np.asarray(x) + noise * rng.normal(size=x.shape).astype(np.float32)), trained
    )
    return combine(trained, frozen)


def plain_paths(params: dict[str, Any]) -> list[str]:
    return [path for path, leaf in flatten(params).items() if not isinstance(leaf, Leaf)]


@functools.cache
def base_run(family: str) -> list[np.ndarray]:
    return run(family, initial(family)[1]["params"])


@functools.cache
def program(family: str) -> Any:
    """The forward pass, compiled once for all parameters of one structure."""
    model = initial(family)[0]
    return jax.jit(lambda v, given: model.apply(v, **given))


def run(family: str, params: Any) -> list[np.ndarray]:
    _, variables, _, given = initial(family)
    return [np.asarray(x) for x in jax.tree.leaves(program(family)({**variables, "params": params}, given))]


def difference(a: Any, b: Any) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)


def exact(family: str) -> Callable[[Any], list[np.ndarray]]:
    """Outputs computed one operation at a time: two programs are fused differently and so rounded.

    Made anew by each test and gone with it: a program of thousands of kernels takes as many mappings of memory.
    """
    model, variables, _, given = initial(family)
    forward = jax.jit(lambda v, given: model.apply(v, **given), compiler_options=UNFUSED)
    small = {name: jnp.asarray(x[:2]) for name, x in given.items()}
    return lambda params: [np.asarray(x) for x in jax.tree.leaves(forward({**variables, "params": params}, small))]


@every_family
def test_lora_starts_bit_identical_to_the_base(family: str) -> None:
    params = adapted(family, "lora")
    assert sum(isinstance(leaf, Leaf) for leaf in flatten(params).values()) >= 8
    outputs = exact(family)
    base = outputs(initial(family)[1]["params"])
    assert difference(outputs(params), base) == 0.0
    assert difference(outputs(adapted(family, "lora", 0.1)), base) > 1e-3


def test_every_kind_but_dora_starts_bit_identical_to_the_base() -> None:
    outputs = exact("clip")
    assert difference(outputs(mixture("clip", ["ia3", "bottleneck"])), outputs(initial("clip")[1]["params"])) == 0.0


@pytest.mark.parametrize("family", ["align", "clip"])
def test_dora_starts_as_the_base(family: str) -> None:
    assert difference(run(family, adapted(family, "dora")), base_run(family)) < 1e-5


@every_family
def test_merged_then_unmerged_is_the_base(family: str) -> None:
    base = initial(family)[1]["params"]
    params = activate(mixture(family, ["lora", "dora", "ia3"], noise=0.1), {"default": 0.4})
    merged = jax.jit(merge)(params)
    assert not any(isinstance(leaf, Leaf) for leaf in flatten(merged).values())
    assert difference(merged, base) > 1e-2
    assert difference(unmerge(merged, detach(params)[1]), base) < 1e-6


@families
def test_merged_computes_the_same(family: str) -> None:
    params = activate(mixture(family, ["lora", "dora", "ia3"], noise=0.1), {"default": 0.4})
    wanted = run(family, params)
    found = run(family, jax.jit(merge)(params))
    assert difference(found, wanted) < 2e-5 * max(1.0, *(np.abs(x).max() for x in wanted))


@pytest.mark.parametrize("family", ["align", "clip"])
def test_a_switched_off_adapter_is_the_base_and_two_add_up(family: str) -> None:
    base = initial(family)[1]["params"]
    one = moved(attached(base, {**KINDS["lora"], "name": "one"}), 0.1)
    fields = {**KINDS["lora"], "name": "two", "rank": 2}
    two = attached(one, fields, seed=2)
    assert adapter_names(two) == ["one", "two"]
    # Only the newer one is trained.
    trained, _ = partition(two, frozen_paths(two, make_method(fields)))
    assert {x.shape[-1] for path, x in arrays(trained).items() if path.endswith("/a")} == {2}
    two = moved(two, 0.1)
    assert difference(run(family, activate(two, {})), base_run(family)) == 0.0
    assert difference(run(family, activate(two, {"one": 1.0})), run(family, one)) == 0.0
    both = merge(activate(two, {"one": 0.3, "two": -0.7}))
    deltas = [jax.tree.map(jnp.subtract, merge(activate(two, {name: 1.0})), base) for name in ("one", "two")]
    wanted = jax.tree.map(lambda b, x, y: b + 0.3 * x - 0.7 * y, base, *deltas)
    assert difference(both, wanted) < 1e-6
    with pytest.raises(ConfigError, match="no adapter is called 'onee'; did you mean 'one'"):
        activate(two, {"onee": 1.0})


@pytest.mark.parametrize("family", ["align", "blip2", "clip", "decoder", "flamingo", "t5"])
def test_sharded_equals_unsharded_and_survives_a_checkpoint(family: str, tmp_path: Path) -> None:
    model, variables, names, given = initial(family)
    params = mixture(family, list(KINDS), noise=0.1)
    mesh, rules = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2)), sharding.PRESETS["fsdp_tp"]
    placed = jax.device_put(params, sharding.shard_params(params, names["params"], mesh, rules))

    trained = partition(placed, plain_paths(params))[0]
    assert {"a", "b", "magnitude", "vector", "down", "up"} <= {
        path.rpartition("/")[2] for path, x in arrays(trained).items() if not x.sharding.is_fully_replicated
    }
    # Traced anew: what the mesh constrains is read while tracing.
    forward = jax.jit(lambda v, given: model.apply(v, **given))
    with sharding.use(mesh, rules):
        out = forward({**variables, "params": placed}, sharding.put_batch(given, mesh))
    wanted = run(family, params)
    assert difference(out, wanted) < 2e-5 * max(1.0, *(np.abs(x).max() for x in wanted))
    checkpoints = Checkpoints(tmp_path / "c", asynchronous=False)
    checkpoints.save(1, {"params": trained}, {})
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trained)
    restored = Checkpoints(tmp_path / "c").restore({"params": template}).tree["params"]
    assert jax.tree.structure(restored) == jax.tree.structure(trained)
    assert difference(restored, trained) == 0.0
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, trained)


def test_sharded_gradients_equal_unsharded_ones() -> None:
    model, _, names, given = initial("clip")
    params = mixture("clip", list(KINDS), noise=0.1)
    mesh, rules = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2)), sharding.PRESETS["fsdp_tp"]
    placed = jax.device_put(params, sharding.shard_params(params, names["params"], mesh, rules))

    def objective(trained: Any, frozen: Any, given: Any) -> jax.Array:
        out: Any = model.apply({"params": combine(trained, frozen)}, **given)
        return jnp.sin(out.scale * out.zimg @ out.ztxt.T).sum()

    grad = jax.jit(jax.grad(objective))
    with sharding.use(mesh, rules):
        grads = grad(*partition(placed, plain_paths(params)), sharding.put_batch(given, mesh))
    wanted = grad(*partition(params, plain_paths(params)), given)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(wanted))
    assert difference(grads, wanted) < 1e-4 * max(1.0, scale)


def test_what_a_bottleneck_adapter_computes() -> None:
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(5, 4)), jnp.float32), "bias": jnp.ones(4)}
    x = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
    for parallel in (False, True):
        fields = dict(kind="bottleneck", rank=2, parallel=parallel, scale=0.5, act="relu", targets=["kernel"])
        tree = moved(attached(params, fields), 1.0)
        leaf = tree["kernel"]
        plain = x @ params["kernel"] + params["bias"]
        given = x if parallel else plain
        wanted = plain + 0.5 * (jax.nn.relu(given @ leaf.down + leaf.down_bias) @ leaf.up + leaf.up_bias)
        actual = Dense(4, (None, None)).apply({"params": tree}, x)
        np.testing.assert_allclose(np.asarray(actual), wanted, rtol=1e-5, atol=1e-6)
        with pytest.raises(UserError, match="bottleneck adapter at kernel is no change of a kernel"):
            merge(tree)
        assert (merge(activate(tree, {}))["kernel"] == params["kernel"]).all()


def test_dropout_is_drawn_for_each_layer_and_off_without_a_key() -> None:
    fields = dict(kind="lora", rank=2, dropout=0.5, targets=["*kernel"])
    stack = {"x": {"layers": {"up": {"kernel": jnp.zeros((3, 4, 5))}}}}
    leaf = moved(attached(stack, fields), 1.0)["x"]["layers"]["up"]["kernel"]
    # The same factors in every layer, so that only what is dropped tells layers apart.
    leaf = leaf.replace(a=jnp.stack([leaf.a[0]] * 3), b=jnp.stack([leaf.b[0]] * 3))
    params = {"x": {"layers": {"up": {"kernel": leaf}}}}
    x = jnp.ones((256, 4))

    @jax.jit
    def outputs(params: Any) -> jax.Array:
        kernel = params["x"]["layers"]["up"]["kernel"]
        return jax.lax.map(lambda kernel: leaves.matmul(x, kernel), kernel)

    still, first, again, other = (
        np.asarray(outputs(p)) for p in (params, *(leaves.keyed(params, jax.random.key(k)) for k in (0, 0, 1)))
    )
    assert (still == still[0, 0]).all()
    assert (first == again).all() and (first != other).any()
    assert (first[0] != first[1]).any() and (first[1] != first[2]).any()
    scale = np.abs(still).max()
    np.testing.assert_allclose(first.mean(1), still.mean(1), atol=0.4 * scale)


def test_layers_of_a_stack_have_ranks_of_their_own_and_padding_stays_zero() -> None:
    stack = {"x": {"layers": {"up": {"kernel": jnp.ones((3, 4, 5))}}}}
    fields = dict(kind="lora", rank=4, alpha=8, rank_pattern={"*up*": [1, 4, 2]}, alpha_pattern={"*": [1, 8, 8]})
    leaf = attached(stack, {**fields, "targets": ["*kernel"]})["x"]["layers"]["up"]["kernel"]
    assert leaf.ranks == (1, 4, 2) and leaf.a.shape == (3, 4, 4) and leaf.scale.tolist() == [1.0, 2.0, 4.0]
    for layer, rank in enumerate(leaf.ranks):
        assert bool((leaf.a[layer, :, :rank] != 0).all()) and bool((leaf.a[layer, :, rank:] == 0).all())
    noisy = leaf.replace(b=leaf.b + jnp.arange(3.0)[:, None, None] * (leaf.b == 0) * (jnp.arange(4) < 1)[None, :, None])
    grads = jax.grad(lambda a, b: jnp.square(noisy.replace(a=a, b=b).materialize()).sum(), argnums=(0, 1))
    da, db = grads(noisy.a, noisy.b)
    assert bool((da[0, :, 1:] == 0).all()) and bool((db[0, 1:] == 0).all()) and bool((db[1] != 0).all())
    kept = attached(stack, dict(kind="lora", rank=2, targets=["*kernel"], layers=[1]))["x"]["layers"]["up"]["kernel"]
    assert kept.ranks == (0, 2, 0) and kept.scale.tolist() == [0.0, 8.0, 0.0]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (dict(kind="lorra"), "adapter kind 'lorra' is unknown; did you mean 'lora'"),
        (dict(kind="lora", rnk=3), "adapter 'lora' has no field 'rnk'; did you mean 'rank'"),
        (dict(kind="lora", targets=["*/query/kernl"]), "matches no parameter; did you mean '.*kernel'"),
        (dict(kind="lora", targets=["*/query/*"]), "query/bias' is neither a kernel nor an embedding"),
        (dict(kind="lora", rank=0), "adapter rank .* give a positive one"),
        (dict(kind="lora", rank_pattern={"*nothing*": 3}), r"'\*nothing\*' matches no parameter"),
        (dict(kind="lora", rank_pattern={"*": [1, 2, 3]}), "gives 3 values for .* which has 2 layers"),
        (dict(kind="lora", layers=[5]), "names layer 5, but .* has 2"),
        (dict(kind="lora", bias="some"), "adapter.bias 'some' is unknown"),
        (dict(kind="lora", train=["*head/*"]), "matches no parameter"),
        (dict(kind="ia3", targets=["*embedding"], feedforward=["*embedding"]), "a table has no inputs"),
    ],
)
def test_a_wrong_method_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        attach(initial("clip")[1]["params"], make_method(fields), jax.random.key(0))


def test_what_is_trained_beside_the_leaves() -> None:
    params = initial("clip")[1]["params"]

    def trained(**fields: Any) -> set[str]:
        method = make_method(fields)
        whole = attached(params, fields)
        return set(arrays(partition(whole, frozen_paths(whole, method))[0]))

    biases = {path for path in flatten(params) if path.endswith("/bias")}
    assert trained(kind="bitfit") == biases
    query = "image_tower/blocks/layers/attn/query"
    own = {f"{query}/kernel/a", f"{query}/kernel/b"}
    targets = [f"{query}/kernel"]
    assert trained(kind="lora", targets=targets) == own
    assert trained(kind="lora", targets=targets, bias="targets") == own | {f"{query}/bias"}
    assert trained(kind="lora", targets=targets, bias="all") == own | biases
    assert trained(kind="lora", targets=targets, train=["image_proj/*"]) == own | {"image_proj/kernel"}


def test_adapters_go_off_and_on_another_base_of_the_same_shapes() -> None:
    base = initial("clip")[1]["params"]
    params = mixture("clip", ["lora", "dora", "ia3"], noise=0.1)
    plain, adapters = detach(params, {"image_tower/norm/bias": jnp.ones(32)})
    assert difference(plain, base) == 0.0
    again = put_on(plain, adapters)
    assert bool((again["image_tower"]["norm"]["bias"] == 1).all())
    assert difference(run("clip", put_on(plain, detach(params)[1])), run("clip", params)) == 0.0
    with pytest.raises(UserError, match="replaces image_tower/norm/bias, whose former value"):
        unmerge(merge(again), adapters)
    wider = initialize(tiny("clip", image=dict(width=40)))[1]["params"]
    with pytest.raises(UserError, match="does not fit the base"):
        put_on(wider, detach(params)[1])


def arrays(tree: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    map_arrays(lambda path, x: found.setdefault(path, x), tree)
    return found
