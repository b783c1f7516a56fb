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
from jvlm.train.config import load_config
from jvlm.train.loop import train
from tests.train.cases import ROOT, finish, losses, start

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


def test_a_diffusion_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Its average, its frozen parts and what each step draws included."""
    small = [f"model.unet.{field}" for field in ("widths=[16]", "depths=[1]", "num_heads=[2]")]
    small += [f"model.vae.{field}" for field in ("widths=[8]", "image_size=8")]
    config = load_config(
        str(ROOT / "configs" / "ldm_tiny_emoji_pretrain.py") + ":tiny", [*small, "checkpoint={'keep_last': 9}"]
    )
    train(config, str(tmp_path / "whole"), quiet=True)
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "00000002", tmp_path / "again" / "checkpoints" / "00000002")
    train(config, str(tmp_path / "again"), quiet=True)
    parts = (*PARTS, "average", "frozen", "state")
    one, other = (read_parts(tmp_path / name / "checkpoints", parts) for name in ("whole", "again"))
    assert one.step == other.step == 4 and one.meta == other.meta
    assert jax.tree.structure(one.tree) == jax.tree.structure(other.tree)
    jax.tree.map(np.testing.assert_array_equal, one.tree, other.tree)
    whole, again = losses(tmp_path / "whole"), losses(tmp_path / "again")
    assert [again[step] for step in (3, 4)] == [whole[step] for step in (3, 4)]
    assert len(set(whole.values())) == 4
