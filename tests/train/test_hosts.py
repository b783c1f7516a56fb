"""Several processes are one run: the same losses, one end, a message when one of them is gone."""

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jvlm.checkpoint.parts import read_parts
from jvlm.core.tree import flatten
from jvlm.train import hosts
from jvlm.train.hosts import difference
from tests.train.cases import finish, losses, start

STEPS = 40
# SGD, because others forget how large a gradient was and make steps of the rounding where there is none.
OPTIMIZER = dict(name="sgd", lr=0.05, schedule=dict(name="constant"))
RUN = (f"steps={STEPS}", f"optimizer={OPTIMIZER}", "model.text.depth=1")


@contextmanager
def started(workdir: Path, count: int, log: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """A run of that many processes with a device each; none of them outlives the block."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    cluster = dict(JAX_COORDINATOR_ADDRESS=f"localhost:{port}", JAX_NUM_PROCESSES=str(count), JVLM_HANG_SECONDS="20")
    processes = [
        start(
            workdir,
            *(*RUN, "checkpoint_every=6"),
            env=cluster | dict(JAX_PROCESS_ID=str(index)),
            log=log.with_suffix(f".{index}"),
        )
        for index in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def until(workdir: Path, step: int, processes: list[subprocess.Popen[str]]) -> None:
    """Waits for the loss of `step`."""
    deadline = time.monotonic() + 300
    while not (workdir / "metrics.jsonl").exists() or max(losses(workdir), default=0) < step:
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.02)


def said(log: Path, index: int) -> str:
    return log.with_suffix(f".{index}").read_text()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process with one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finish(start(workdir, *RUN, f"checkpoint_every={STEPS}"))
    return workdir


def test_four_processes_stop_together_two_go_on_and_outlive_a_third_that_is_killed(alone: Path, tmp_path: Path) -> None:
    workdir, log = tmp_path / "run", tmp_path / "four"
    with started(workdir, 4, log) as four:
        until(workdir, 1, four)
        four[2].send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert [process.wait(timeout=60) for process in four] == [0] * 4, [said(log, index) for index in range(4)]
        assert time.monotonic() - began < 30
    status = json.loads((workdir / "status.json").read_text())
    stopped = status["step"]
    assert (status["status"], status["reason"]) == ("preempted", "SIGTERM") and 1 <= stopped < STEPS
    assert {re.findall(r"preempted at step (\d+)", said(log, index))[-1] for index in range(4)} == {str(stopped)}
    assert read_parts(workdir / "checkpoints", ("guard",)).step == stopped

    # On two processes, one of which is lost: the other stops and says so.
    log = tmp_path / "two"
    with started(workdir, 2, log) as two:
        until(workdir, stopped + 7, two)
        two[1].kill()
        began = time.monotonic()
        assert two[0].wait(timeout=60) == 1, said(log, 0)
        assert time.monotonic() - began < 30
    assert re.search(r"jvlm: error: .*last steps: process 0 at \d+", said(log, 0)), said(log, 0)
    assert json.loads((workdir / "status.json").read_text())["status"] == "failed"
    killed = losses(workdir)

    log = tmp_path / "again"
    with started(workdir, 2, log) as again:
        assert [process.wait(timeout=300) for process in again] == [0, 0], [said(log, index) for index in range(2)]
    one, several = losses(alone), losses(workdir)
    repeated = [step for step in killed if step > stopped]
    assert repeated and [several[step] for step in repeated] == [killed[step] for step in repeated]  # bit for bit
    assert list(one) == list(several) == list(range(1, STEPS + 1))
    np.testing.assert_allclose([several[step] for step in one], list(one.values()), atol=1e-5)
    found, wanted = (read_parts(path / "checkpoints", ("params",)) for path in (workdir, alone))
    assert found.meta == wanted.meta  # the same samples: position and counters
    theirs = flatten(wanted.tree)
    assert flatten(found.tree).keys() == theirs.keys()
    for path, leaf in flatten(found.tree).items():
        np.testing.assert_allclose(leaf, theirs[path], atol=1e-5, err_msg=path)


def told(*facts: dict[str, str]) -> dict[int, Any]:
    return {index: dict(host=f"host{index}", facts=one) for index, one in enumerate(facts)}


@pytest.mark.parametrize("fact", ["configuration", "code", "data"])
def test_the_process_that_differs_is_named(fact: str) -> None:
    same = dict(configuration="a", code="b", data="c")
    assert difference(told(same, same)) is None
    line = difference(told(same, same, same | {fact: "x"}, same))
    assert line is not None and line.startswith(
        f"process 2 on host2 has another {fact} (x) than the others ({same[fact]})"
    )


class Store:
    """A coordination service's key-value store, enough for one process."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        assert allow_overwrite or key not in self.values
        self.values[key] = value


def test_a_run_that_makes_no_step_is_ended_but_not_while_it_compiles_or_is_paused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, reasons = Store(), []
    monkeypatch.setattr(hosts, "_store", lambda: store)
    monkeypatch.setattr(hosts, "leave", reasons.append)
    with hosts.Watch(0.2) as watch:
        time.sleep(0.4)
        assert not reasons  # no step yet: it compiles
        watch.beat(3)
        with watch.paused():
            time.sleep(0.4)
        assert not reasons
        time.sleep(0.4)
    assert reasons[0] == "no step for 0.2 s, a collective hangs"
    assert store.values == {"jvlm/steps/0": "3"}
