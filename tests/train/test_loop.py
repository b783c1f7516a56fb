"""What the loop promises besides resuming: refusals, stops, frozen parts, and one-line errors."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jvlm
from jvlm.checkpoint.parts import read_parts
from jvlm.core.errors import ConfigError, UserError
from jvlm.core.tree import flatten
from jvlm.train.config import apply_override, load_config, to_plain
from jvlm.train.guard import Guard
from jvlm.train.loop import train
from tests.train.cases import toy_config


def test_a_refused_step_changes_nothing_and_many_in_a_row_stop_the_run(tmp_path: Path) -> None:
    config = toy_config("optimizer.lr=1e30", "guard={'max_in_row': 3}", "steps=12", "optimizer.schedule.warmup=0")
    with pytest.raises(UserError, match=r"3 updates in a row were refused.*lower optimizer\.lr"):
        train(config, str(tmp_path / "run"), quiet=True)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "failed" and "refused" in status["reason"]


def test_the_guard_refuses_what_is_not_finite_or_spikes_and_counts() -> None:
    guard = Guard.create(8)
    for loss in (1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0, 1.0):
        assert guard.accepts(jnp.float32(loss), jnp.float32(1.0))
        guard = guard.record(jnp.float32(loss), jnp.bool_(True))
    for loss, norm in ((jnp.nan, 1.0), (1.0, jnp.inf), (5.0, 1.0)):
        accepted = guard.accepts(jnp.float32(loss), jnp.float32(norm))
        assert not accepted
        guard = guard.record(jnp.float32(loss), accepted)
    assert int(guard.skipped) == int(guard.skipped_in_row) == 3
    guard = guard.record(jnp.float32(1.0), guard.accepts(jnp.float32(1.0), jnp.float32(1.0)))
    assert int(guard.skipped) == 3 and int(guard.skipped_in_row) == 0


def test_frozen_parameters_keep_their_bits_and_have_no_optimizer_state(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    train(toy_config("frozen=['image_tower/*']", "checkpoint={'keep_last': 9}"), str(workdir), quiet=True)
    first = read_parts(workdir / "checkpoints" / "00000002", ("frozen", "params", "opt_state"))
    last = read_parts(workdir / "checkpoints" / "00000004", ("frozen", "params"))
    jax.tree.map(np.testing.assert_array_equal, first.tree["frozen"], last.tree["frozen"])
    assert not any("image_tower" in path for path in flatten(first.tree["opt_state"]))
    moved = [np.any(a != b) for a, b in zip(*(jax.tree.leaves(x.tree["params"]) for x in (first, last)))]
    assert any(moved)


def test_an_average_follows_the_parameters(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    train(toy_config("average=0.5", "steps=2", "optimizer.schedule.warmup=0"), str(workdir), quiet=True)
    tree: Any = read_parts(workdir / "checkpoints", ("params", "average")).tree
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), tree["params"], tree["average"])
    assert max(jax.tree.leaves(gaps)) > 0


def test_the_average_of_a_short_run_is_not_its_start(tmp_path: Path) -> None:
    gaps = {}
    for steps in (1, 4):
        workdir = tmp_path / str(steps)
        train(toy_config("average=0.999", f"steps={steps}", "optimizer.schedule.warmup=0"), str(workdir), quiet=True)
        gaps[steps] = read_parts(workdir / "checkpoints", ("params", "average")).tree
    moved, lag = (
        max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))
        for x, y in ((gaps[4]["average"], gaps[1]["average"]), (gaps[4]["params"], gaps[4]["average"]))
    )
    assert lag < moved


def test_a_workdir_is_not_continued_with_other_data_or_another_model(tmp_path: Path) -> None:
    train(toy_config("steps=1"), str(tmp_path / "run"), quiet=True)
    with pytest.raises(ConfigError, match="holds a run with batch_size = 16"):
        train(toy_config("steps=2", "batch_size=8"), str(tmp_path / "run"), quiet=True)
    with pytest.raises(ConfigError, match=r"holds a run with model\.text\.depth = 1, this configuration has 2"):
        train(toy_config("steps=2", "model.text.depth=2"), str(tmp_path / "run"), quiet=True)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "finished", "a wrong command line must not mark a good run as failed"


def test_an_option_of_reading_need_not_be_spelt_out_to_be_set(tmp_path: Path) -> None:
    config = toy_config("steps=1", "pipeline.max_bad=0.2")
    assert to_plain(config)["pipeline"]["max_bad"] == 0.2
    config = toy_config("steps=1", "pipeline.max_bda=0.2")
    with pytest.raises(ConfigError, match=r"max_bda.*max_bad"):
        train(config, str(tmp_path), quiet=True)


def test_data_of_an_evaluation_that_is_not_there_is_found_before_the_first_step(tmp_path: Path) -> None:
    suite = "evals={'mine': {'evaluator': 'retrieval', 'data': {'name': 'tar', 'paths': 'nowhere/*.tar'}}}"
    with pytest.raises(UserError, match=r"^evals\.mine\.data: nowhere"):
        train(toy_config("steps=1", suite), str(tmp_path / "run"), quiet=True)
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_a_wrong_setting_that_only_compiling_finds_ends_the_run_as_failed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="softmx"):
        train(toy_config("steps=1", "task.kind=softmx"), str(tmp_path), quiet=True)
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "failed"


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = train(toy_config("steps=1"), str(tmp_path), quiet=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert train(toy_config("steps=1"), str(tmp_path), quiet=True) == ended
    assert "has finished; give more --config.steps" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert train(toy_config("steps=2", "optimizer.lr=0.5"), str(tmp_path), quiet=True)["step"] == 2
    said = capsys.readouterr().out
    assert "goes on with optimizer.lr = 0.5 (was 0.02), steps = 2 (was 1)" in said


def test_what_a_run_of_few_samples_and_steps_cannot_do_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy_config(
        "steps=1", "optimizer.schedule.warmup=7", "batch_size=256", "data.split=concepts", "pipeline={}"
    )
    train(config, str(tmp_path))
    said = " ".join(capsys.readouterr().err.split())
    assert "the warmup of 7 steps is no shorter than the run" in said
    assert "a batch of 256 repeats the 250 samples" in said


def test_a_step_that_is_passed_over_when_a_workdir_is_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(toy_config("steps=2", "checkpoint_every=1"), str(tmp_path), quiet=True)
    newest = tmp_path / "checkpoints" / "00000002"
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    jvlm.load(tmp_path)
    said = capsys.readouterr().err
    assert "passed over step 2" in said and "read step 1 instead" in said


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1", r"optimizer has no key 'lrr'.*did you mean 'lr'"),
        ("setps=3", r"has no key 'setps'.*did you mean 'steps'"),
        ("steps='many'", r"--config\.steps='many' is a str, but the key holds a int"),
        ("steps", r"has no '='"),
        ("adapter=lora", r"no dictionary; write --config.adapter=\"\{'KEY': VALUE\}\""),
    ],
)
def test_a_wrong_override_names_the_nearest_right_one(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_override(toy_config(), override)


def test_a_wrong_variant_of_a_configuration_names_the_right_one() -> None:
    with pytest.raises(ConfigError, match=r"has no variant 'tinny'; did you mean 'tiny'"):
        load_config("clip_tiny_emoji_pretrain.py:tinny")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task={'name': 'contrastve'}", "did you mean 'contrastive'"),
        ("model={'family': 'clop'}", "did you mean 'clip'"),
        ("data={'name': 'emoji', 'split': 'tran'}", "did you mean 'train'"),
        ("optimizer={'name': 'adam', 'lr': 1.0}", "did you mean 'adamw'"),
        ("frozen=['image_towr/*']", "matches no parameter"),
        ("batch_size=15", "does not divide"),
        ("batch_size=0", "batch_size is 0; give 1 or more"),
        ("steps=-1", "steps is -1; give 1 or more"),
        ("optimizer.lr=-0.1", "neither may be negative"),
        ("pipeline={'augment': {'flop': 1}}", "did you mean 'flip'"),
        ("evals={'x': {'evaluator': 'retrival'}}", "did you mean 'retrieval'"),
    ],
)
def test_a_wrong_value_is_named_before_anything_is_trained(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        train(toy_config(override), str(tmp_path / "run"), quiet=True)
    assert not any((tmp_path / "run").glob("checkpoints/*"))
    if override.startswith(("task", "model", "optimizer")):
        assert not (tmp_path / "run").exists(), "nothing ran, so nothing is left behind"
