"""Killed and resumed equals uninterrupted: bit for bit on the same devices, to rounding on others."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jvlm.checkpoint.parts import read_parts
from tests.train.cases import finish, losses, start

STEPS = 24
PARTS = ("params", "opt_state", "guard")
RUN = (f"steps={STEPS}", "checkpoint_every=4", "optimizer.schedule.warmup=2")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("whole") / "run"
    finish(start(workdir, *RUN, "checkpoint={'keep_last': 100}", devices=8))
    return workdir


def assert_same_state(a: Path, b: Path) -> None:
    one, other = (read_parts(path / "checkpoints", PARTS) for path in (a, b))
    assert one.step == other.step == STEPS
    assert one.meta == other.meta
    jax.tree.map(np.testing.assert_array_equal, one.tree, other.tree)


def test_killed_at_a_random_step_and_resumed_is_bit_for_bit_the_same(uninterrupted: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    process = start(workdir, *RUN, devices=8)
    after = random.Random(0).randrange(5, 20)
    deadline = time.monotonic() + 300
    while max(losses(workdir), default=0) < after if (workdir / "metrics.jsonl").exists() else True:
        assert time.monotonic() < deadline and process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert json.loads((workdir / "status.json").read_text())["status"] == "running"
    finish(start(workdir, *RUN, devices=8))
    assert json.loads((workdir / "status.json").read_text())["status"] == "finished"
    assert_same_state(uninterrupted, workdir)
    assert losses(workdir) == losses(uninterrupted)


def test_a_termination_notice_saves_and_exits_well(uninterrupted: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    process = start(workdir, *RUN, devices=8)
    deadline = time.monotonic() + 300
    while not (workdir / "metrics.jsonl").exists() or not losses(workdir):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    finish(process)
    status = json.loads((workdir / "status.json").read_text())
    assert status["status"] == "preempted" and status["reason"] == "SIGTERM"
    assert read_parts(workdir / "checkpoints", ("params",)).step == status["step"]
    finish(start(workdir, *RUN, devices=8))
    assert_same_state(uninterrupted, workdir)


@pytest.mark.parametrize("devices", [4, 1])
def test_resumed_on_fewer_devices_sees_the_same_samples(uninterrupted: Path, tmp_path: Path, devices: int) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted / "checkpoints" / "00000004", workdir / "checkpoints" / "00000004")
    finish(start(workdir, *RUN, devices=devices))
    whole, resumed = losses(uninterrupted), losses(workdir)
    steps = range(5, STEPS + 1)
    np.testing.assert_allclose([resumed[s] for s in steps], [whole[s] for s in steps], atol=1e-5, rtol=0)
