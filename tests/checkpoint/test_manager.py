"""What is saved comes back bit for bit on any mesh, in any number of steps kept, or with an error that names it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jvlm.checkpoint.manager import Checkpoints
from jvlm.checkpoint.verify import verify
from jvlm.core.errors import ConfigError, UserError
from tests.checkpoint.states import assert_same, make_state, mesh_of, shardings, template_of

META = {"position": 12345678901234, "loss_window": [0.1, 2.5e-8, 1 / 3], "skips": {"spike": 2}, "seed": 7}


@pytest.fixture(scope="module")
def state():
    return make_state(3, mesh_of(8))


@pytest.fixture(scope="module")
def saved(tmp_path_factory, state):
    """A directory with one checkpoint, saved from eight devices."""
    directory = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(directory)
    checkpoints.save(100, state, META, {"r1": 0.5})
    checkpoints.close()
    return directory


@pytest.mark.parametrize("count", [8, 4, 1])
def test_saved_on_eight_devices_restored_on_any(saved, state, count):
    mesh = mesh_of(count)
    found = Checkpoints(saved).restore(template_of(state, mesh))
    assert (found.step, found.meta, found.problems) == (100, META, [])
    assert_same(found.tree, state)
    for leaf, sharding in zip(jax.tree.leaves(found.tree), jax.tree.leaves(shardings(state, mesh))):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    np.testing.assert_array_equal(  # the key works, it does not only look alike
        jax.random.normal(found.tree["rng"], (4,)), jax.random.normal(state["rng"], (4,))
    )


def test_saved_on_one_device_restored_on_eight(tmp_path, state):
    lone = make_state(3, mesh_of(1))
    checkpoints = Checkpoints(tmp_path, asynchronous=False)
    checkpoints.save(1, lone, {})
    assert_same(checkpoints.restore(template_of(state, mesh_of(8))).tree, state)


def test_verify_finds_nothing_in_a_good_one(saved):
    assert verify(saved) == []
    assert verify(saved / "00000100") == []


def test_leaves_may_be_donated_as_soon_as_save_returns(tmp_path):
    sharding = NamedSharding(mesh_of(8), PartitionSpec("fsdp"))
    step = jax.jit(lambda x: x * 3 + 1, donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, keep_last=9)
    x = jax.device_put(jnp.arange(1 << 20, dtype=jnp.float32), sharding)
    wanted = []
    for number in range(4):
        wanted.append(np.array(x))
        checkpoints.save(number, {"x": x}, {})
        x = step(x)
    template = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)}
    for number in range(4):
        np.testing.assert_array_equal(checkpoints.restore(template, number).tree["x"], wanted[number])
    checkpoints.close()


def test_a_relative_directory_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints("run/checkpoints", asynchronous=False)
    assert checkpoints.latest_complete() is None
    checkpoints.save(0, {"x": jnp.ones(3)}, {})
    assert checkpoints.steps() == [0]
    assert (tmp_path / "run" / "checkpoints" / "00000000" / "manifest.json").exists()


def edit(tree, path, leaf):
    """A copy of nested dicts with one leaf changed, added or, for None, left out."""
    head, *rest = path.split("/")
    if rest:
        return {**tree, head: edit(tree.get(head, {}), "/".join(rest), leaf)}
    return {key: value for key, value in {**tree, head: leaf}.items() if value is not None}


@pytest.mark.parametrize(
    ("path", "leaf", "message"),
    [
        ("params/head/kernel", ((24, 9), jnp.float32), r"leaf params/head/kernel has shape \[24, 8\].*\[24, 9\]"),
        ("params/tower/bias", ((24,), jnp.bfloat16), "leaf params/tower/bias is float32, wanted is bfloat16"),
        ("params/heads/kernel", ((24, 8), jnp.float32), "params/heads/kernel is not in it .*params/head/kernel"),
        ("params/tower/bias", None, "leaf params/tower/bias is in it and not wanted"),
        ("rng", ((2,), jnp.uint32), r"leaf rng has shape \[\], wanted is \[2\]"),
        ("frozen/signed", ((8, 2), jnp.uint8), "leaf frozen/signed is int8, wanted is uint8"),
    ],
    ids=["shape", "dtype", "missing", "left over", "key", "sign"],
)
def test_a_template_of_another_state_is_an_error_that_names_the_leaf(saved, state, path, leaf, message):
    struct = None if leaf is None else jax.ShapeDtypeStruct(*leaf)
    template = edit(template_of(state, mesh_of(1)), path, struct)
    if path.startswith("params/heads"):
        template = edit(template, "params/head/kernel", None)
    with pytest.raises(UserError, match=message) as caught:
        Checkpoints(saved).restore(template)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_stored_is_refused_by_name_before_anything_is_written(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for tree, meta, message in [
        ({"a": {"codes": jnp.zeros(3, jnp.uint4)}}, {}, "leaf a/codes: .*uint4"),
        ({"a": np.zeros(3)}, {}, "leaf a: a ndarray"),
        ({"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}}, {}, "leaf 'a/b'"),
        ({"a/b": jnp.zeros(1), "a": jnp.zeros(1)}, {}, "leaf a/b"),
        ({"a": jnp.zeros((0, 2))}, {}, "no arrays"),
        ({"a": jnp.zeros(1)}, {"x": {1, 2}}, "meta .*set"),
    ]:
        with pytest.raises(UserError, match=message):
            checkpoints.save(1, tree, meta)
    with pytest.raises(UserError, match=r"metrics of a checkpoint: .*give one number each"):
        checkpoints.save(1, {"a": jnp.zeros(1)}, {}, {"r1": [1, 2]})
    assert list(tmp_path.iterdir()) == []


def test_what_the_caller_changes_after_save_is_not_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    meta = {"window": [1.0]}
    checkpoints.save(1, {"a": jnp.zeros(1)}, meta)
    meta["window"].append(2.0)
    assert checkpoints.restore({"a": jnp.zeros(1)}).meta == {"window": [1.0]}


def test_rules_keep_the_last_the_best_and_every_kth(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every=40, keep_best=("r1", "max"))
    tree = {"a": jnp.arange(4.0)}
    for step, score in zip(range(10, 110, 10), [0.1, 0.2, 0.9, 0.3, 0.1, 0.1, 0.4, 0.3, 0.2, 0.1]):
        checkpoints.save(step, tree, {}, {"r1": score})
    checkpoints.wait()
    assert checkpoints.steps() == [30, 40, 80, 90, 100]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{s:08d}" for s in checkpoints.steps()]
    with pytest.raises(ConfigError, match="keep_last"):
        Checkpoints(tmp_path, keep_last=0)


def test_the_same_step_is_saved_once_and_another_runs_step_is_not_overwritten(tmp_path):
    first = Checkpoints(tmp_path, asynchronous=False)
    first.save(5, {"a": jnp.zeros(2)}, {})
    before = (tmp_path / "00000005" / "manifest.json").read_bytes()
    first.save(5, {"a": jnp.zeros(2)}, {})
    with pytest.raises(UserError, match="step 5 is already complete"):
        Checkpoints(tmp_path).save(5, {"a": jnp.ones(2)}, {})
    assert (tmp_path / "00000005" / "manifest.json").read_bytes() == before


def test_going_back_to_an_older_step_replaces_the_newer_ones(tmp_path):
    first = Checkpoints(tmp_path, asynchronous=False)
    for step in (1, 2, 3):
        first.save(step, {"a": jnp.full(2, step)}, {})
    second = Checkpoints(tmp_path, keep_last=1, asynchronous=False)
    assert second.restore({"a": jnp.zeros(2, int)}, 1).tree["a"].tolist() == [1, 1]
    second.save(2, {"a": jnp.full(2, 22)}, {})
    assert 2 in second.steps()
    assert second.restore({"a": jnp.zeros(2, int)}, 2).tree["a"].tolist() == [22, 22]


def test_asking_for_what_is_not_there_says_what_is(tmp_path):
    checkpoints = Checkpoints(tmp_path, asynchronous=False)
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoints.restore({"a": jnp.zeros(2)})
    with pytest.raises(UserError, match="no checkpoint here"):
        verify(tmp_path)
    checkpoints.save(5, {"a": jnp.zeros(2)}, {})
    with pytest.raises(UserError, match=r"no checkpoint of step 6 .* steps there: 5"):
        checkpoints.restore({"a": jnp.zeros(2)}, 6)


def test_a_failed_save_is_raised_by_the_next_call_and_the_older_step_stays(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": jnp.zeros(2)}, {})
    checkpoints.wait()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("jvlm.checkpoint.manifest.write_atomic", full)
        checkpoints.save(2, {"a": jnp.ones(2)}, {})
        with pytest.raises(UserError, match="No space left on device"):
            checkpoints.wait()
    assert checkpoints.latest_complete() == 1
    checkpoints.save(3, {"a": jnp.ones(2)}, {})
    checkpoints.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001", "00000003"]


def test_not_finite_leaves_are_named_by_verify(tmp_path):
    checkpoints = Checkpoints(tmp_path, asynchronous=False)
    checkpoints.save(1, {"a": {"b": jnp.array([1.0, jnp.nan])}, "c": jnp.ones(3, jnp.bfloat16)}, {})
    (problem,) = verify(tmp_path)
    assert str(problem) == "step 1, leaf a/b: contains NaN or infinity"


def test_verify_reads_large_steps_in_parts(saved, monkeypatch):
    monkeypatch.setattr("jvlm.checkpoint.verify.BATCH_BYTES", 1000)
    assert verify(saved) == []
