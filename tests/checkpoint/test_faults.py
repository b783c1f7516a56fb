"""Damage of every kind: it is seen, named, and the step before it is used."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jvlm.checkpoint.manager import Checkpoints
from jvlm.checkpoint.verify import verify
from jvlm.core.errors import UserError
from tests.checkpoint.saver import tree_of
from tests.checkpoint.states import assert_same, make_state, mesh_of, template_of


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(path: Path, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)


@pytest.fixture
def two_steps(tmp_path):
    """Steps 1 and 2 with different states, and the template to read them with."""
    mesh = mesh_of(8)
    states = {step: make_state(step, mesh) for step in (1, 2)}
    checkpoints = Checkpoints(tmp_path)
    for step, state in states.items():
        checkpoints.save(step, state, {"position": step})
    checkpoints.close()
    return tmp_path, states, template_of(states[1], mesh)


def test_a_hundred_of_a_hundred_flipped_bits_are_named_and_the_step_before_is_used(two_steps):
    directory, states, template = two_steps
    newest = directory / "00000002"
    files = files_of(newest)
    assert {"manifest.json", "_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt"} <= {f.name for f in files}
    draw = random.Random(0)
    checkpoints = Checkpoints(directory)
    for trial in range(100):
        # Every file at least once, small metadata as well as data; then any byte of the step alike.
        weights = None if trial < 50 else [path.stat().st_size for path in files]
        path = files[trial] if trial < len(files) else draw.choices(files, weights)[0]
        bit = draw.randrange(8 * path.stat().st_size)
        flip(path, bit)
        found = checkpoints.restore(template)
        name = path.relative_to(newest).as_posix()
        assert found.step == 1, (name, bit)
        assert [problem.where for problem in found.problems] == [f"step 2, file {name}"], bit
        assert found.meta == {"position": 1}
        assert_same(found.tree, states[1])
        if trial % 10 == 0:
            assert [problem.where for problem in verify(directory)] == [f"step 2, file {name}"]
        flip(path, bit)
    assert len(files) <= 50
    assert checkpoints.restore(template).step == 2


def test_missing_added_and_cut_files_are_named(two_steps):
    directory, _, template = two_steps
    newest = directory / "00000002"
    for path in files_of(newest):
        name, raw = path.relative_to(newest).as_posix(), path.read_bytes()
        path.unlink()
        found = Checkpoints(directory).restore(template)
        assert (found.step, [p.where for p in found.problems]) == (1, [f"step 2, file {name}"])
        path.write_bytes(raw[:-1])
        found = Checkpoints(directory).restore(template)
        assert (found.step, [p.where for p in found.problems]) == (1, [f"step 2, file {name}"])
        path.write_bytes(raw)
    (newest / "d" / "stranger").write_text("hello")
    found = Checkpoints(directory).restore(template)
    assert [str(p).split(":")[0] for p in found.problems] == ["step 2, file d/stranger"]


def test_a_bit_flipped_in_host_memory_during_a_save_is_named_by_its_leaf(tmp_path, monkeypatch):
    mesh = mesh_of(8)
    state = make_state(1, mesh)
    checkpoints = Checkpoints(tmp_path, asynchronous=False)
    checkpoints.save(1, state, {})
    save = ocp.AsyncCheckpointer.save

    def damaged(self, folder, args):
        kernel = np.array(args.item["params"]["tower"]["kernel"])
        kernel.view(np.uint32)[3, 5] ^= np.uint32(1 << 9)
        args.item["params"]["tower"]["kernel"] = jnp.asarray(kernel)
        save(self, folder, args=args)

    with monkeypatch.context() as patch:
        patch.setattr(ocp.AsyncCheckpointer, "save", damaged)
        checkpoints.save(2, state, {})
    assert checkpoints.steps() == [1, 2]  # every file is as it was written
    found = Checkpoints(tmp_path).restore(template_of(state, mesh))
    assert found.step == 1
    (problem,) = found.problems
    assert problem.where == "step 2, leaf params/tower/kernel"
    assert verify(tmp_path) == [problem]
    with pytest.raises(UserError, match=r"step 2, leaf params/tower/kernel: .*leave out the step"):
        Checkpoints(tmp_path).restore(template_of(state, mesh), 2)


def test_when_no_step_is_good_one_line_says_why(two_steps):
    directory, _, template = two_steps
    for step in ("00000001", "00000002"):
        flip(directory / step / "_METADATA", 100)
    with pytest.raises(UserError, match=r"step 2, file _METADATA: .*\(and 1 more\); no step is usable") as caught:
        Checkpoints(directory).restore(template)
    assert "\n" not in str(caught.value)


def test_a_refused_step_does_not_push_out_good_ones_and_goes_when_passed(two_steps):
    directory, states, template = two_steps
    shutil.copytree(directory / "00000002", directory / "00000009")  # a step that belongs elsewhere
    flip(directory / "00000002" / "manifest.ocdbt", 77)
    checkpoints = Checkpoints(directory, keep_last=1, asynchronous=False)
    assert checkpoints.restore(template).step == 1
    checkpoints.save(2, states[1], {})  # the refused step is written anew
    assert checkpoints.restore(template).step == 2
    checkpoints.save(3, states[1], {})
    assert checkpoints.steps() == [3]
    assert (directory / "00000009").exists()  # kept until a complete step is past it
    checkpoints.save(10, states[1], {})
    assert [path.name for path in directory.iterdir()] == ["00000010"]


def test_a_refused_step_does_not_count_as_one_of_the_last(tmp_path):
    tree = {"a": jnp.arange(3.0)}
    first = Checkpoints(tmp_path, asynchronous=False)
    for step in (1, 2, 9):
        first.save(step, tree, {}, {"r1": step})
    flip(tmp_path / "00000009" / "_METADATA", 5)  # the manifest of step 9 is as good as ever
    second = Checkpoints(tmp_path, keep_last=2, keep_best=("r1", "max"), asynchronous=False)
    assert second.restore(tree).step == 2
    assert second.latest_complete() == 2
    second.save(3, tree, {}, {"r1": 0})
    assert second.steps() == [2, 3]


def test_leftovers_of_every_stage_of_a_save_are_ignored_and_cleaned_by_the_next_run(two_steps):
    directory, states, template = two_steps
    good = directory / "00000002"
    shutil.copytree(good, directory / "00000003")  # Orbax done, no manifest yet
    (directory / "00000003" / "manifest.json").unlink()
    shutil.copytree(directory / "00000003", directory / "00000004")  # killed while the manifest was written
    (directory / "00000004" / ".manifest.json.0123.tmp").write_text('{"sha256"')
    shutil.copytree(directory / "00000003", directory / "00000005.orbax-checkpoint-tmp-17")  # Orbax not done
    (directory / "00000006").mkdir()  # half deleted
    (directory / "notes").mkdir()  # not ours
    reader = Checkpoints(directory)
    assert reader.steps() == [1, 2]
    found = reader.restore(template)
    assert found.step == 2
    assert [p.where for p in found.problems] == [f"step {s}, file manifest.json" for s in (6, 4, 3)]
    assert len(list(directory.iterdir())) == 7  # a reader deletes nothing
    reader.save(7, states[1], {})
    reader.close()
    assert sorted(path.name for path in directory.iterdir()) == ["00000001", "00000002", "00000007", "notes"]


def test_killed_at_twenty_random_moments_of_saves_the_latest_complete_step_loads(tmp_path):
    draw = random.Random(time.time_ns())
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(__file__).with_name("saver.py"))]
    template, newest, torn = jax.eval_shape(lambda: tree_of(0)), 0, 0
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as saver:
        assert saver.stdin is not None and saver.stdout is not None
        for _ in range(20):
            # The same directory every time: each child starts from what the killed ones have left.
            print(tmp_path, file=saver.stdin, flush=True)
            child = int(saver.stdout.readline().removeprefix("pid "))
            complete = int(saver.stdout.readline())
            time.sleep(draw.uniform(0, 0.4))
            os.kill(child, signal.SIGKILL)
            while (line := saver.stdout.readline()) != "-\n":
                complete = int(line)
            torn += not all((path / "manifest.json").exists() for path in tmp_path.iterdir())
            found = Checkpoints(tmp_path).restore(template)
            assert complete > newest
            assert found.step in (complete, complete + 1)  # complete, and perhaps killed before it could say so
            assert found.meta == {"position": found.step}
            assert_same(found.tree, tree_of(found.step))
            newest = found.step
        saver.stdin.close()
        assert saver.wait() == 0
    assert torn > 5  # else the kills came between the saves
    checkpoints = Checkpoints(tmp_path, asynchronous=False)
    checkpoints.save(newest + 5, checkpoints.restore(template).tree, {})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{step:08d}" for step in checkpoints.steps()]
    assert verify(tmp_path) == []
