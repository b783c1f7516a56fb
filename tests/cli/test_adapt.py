"""`jvlm adapt`: merged and unmerged directories that are complete, and an accounting that allocates nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jvlm
from jvlm.cli.main import main
from jvlm.core.tree import count, flatten, map_arrays
from jvlm.interop import peft_write
from jvlm.transforms.adapters import attach, frozen_paths, merge
from jvlm.transforms.freeze import combine, partition
from jvlm.transforms.methods import make_method


def written(base: Path, out: Path, **fields: Any) -> Any:
    """A PEFT directory with random arrays, and the model that it makes of `base`."""
    model = jvlm.load(base)
    method = make_method(fields)
    params = attach(model.params, method, jax.random.key(0))
    trained, frozen = partition(params, list(frozen_paths(params, method)))
    rng = np.random.default_rng(0)
    trained = map_arrays(lambda _, x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), trained)
    model = replace(model, params=combine(trained, frozen))
    peft_write.save(model, out)
    return model


def difference(a: Any, b: Any) -> float:
    one, other = flatten(a), flatten(b)
    assert one.keys() == other.keys()
    return max(float(np.abs(np.asarray(one[path]) - np.asarray(other[path])).max()) for path in one)


def test_merge_writes_a_complete_directory_and_unmerge_takes_it_back(
    clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = written(Path(clip), tmp_path / "lora", kind="lora", rank=2)
    merged, base = str(tmp_path / "merged"), str(tmp_path / "base")
    assert main(["adapt", clip, "--adapter", str(tmp_path / "lora"), "--merge", merged, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["directory"] == merged
    found = jvlm.load(merged)
    assert difference(found.params, merge(model.params)) == 0.0
    assert found.processor.fingerprint() == model.processor.fingerprint()
    assert {p.name for p in Path(merged).iterdir()} == {p.name for p in Path(clip).iterdir()}
    assert main(["verify", merged]) == 0
    assert main(["adapt", merged, "--adapter", str(tmp_path / "lora"), "--unmerge", base]) == 0
    assert difference(jvlm.load(base).params, jvlm.load(clip).params) < 1e-6


def test_two_adapters_are_weighed(clip: str, tmp_path: Path) -> None:
    one = written(Path(clip), tmp_path / "one", kind="lora", rank=2)
    two = written(Path(clip), tmp_path / "two", kind="lora", rank=3, targets=["*mlp/up/kernel"])
    arguments = ["adapt", clip, "--merge", str(tmp_path / "out")]
    for name, weight in (("one", "0.5"), ("two", "-1")):
        arguments += ["--adapter", str(tmp_path / name), f"--weight={weight}"]
    assert main(arguments) == 0
    base = jvlm.load(clip).params
    wanted = jax.tree.map(lambda b, x, y: b + 0.5 * (x - b) - (y - b), base, merge(one.params), merge(two.params))
    assert difference(jvlm.load(tmp_path / "out").params, wanted) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["{base}"], "give one of --merge OUT, --unmerge OUT and --list CONFIG"),
        (["{base}", "--merge", "{out}"], "has no adapter of its own; give one with --adapter DIR"),
        (["--adapter", "{dora}", "--merge", "{out}"], "--merge needs a model directory"),
        (["{base}", "--adapter", "{dora}", "--weight=1", "--weight=2", "--merge", "{out}"], "2 times --weight for 1"),
        (["{base}", "--adapter", "{dora}", "--unmerge", "{out}"], "a DoRA that was merged elsewhere"),
        (
            ["{base}", "--adapter", "{base}", "--merge", "{out}"],
            "has no adapter_config.json, so it is no PEFT directory",
        ),
        (["{base}", "--adapter", "{dora}", "--merge", "{base}"], "already exists"),
    ],
)
def test_what_cannot_be_done_is_said(
    clip: str, tmp_path: Path, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written(Path(clip), tmp_path / "dora", kind="dora", rank=2)
    places = dict(base=clip, out=str(tmp_path / "out"), dora=str(tmp_path / "dora"))
    assert main(["adapt", *(text.format(**places) for text in arguments)]) in (1, 2)
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["transformers", "workdir"])
def test_the_listing_is_of_the_model_that_the_run_starts_from(
    clip: str, tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = jvlm.load(clip)
    if source == "workdir":
        jvlm.save(model, tmp_path / "run", format="jvlm")
    where = clip if source == "transformers" else str(tmp_path / "run")
    spec = ["--list", "configs/clip_l14_laion_pretrain.py", f"--config.init={where}", "--json"]
    assert main(["adapt", *spec]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == count(model.params)


def test_the_listing_of_a_full_size_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    spec = "configs/clip_l14_laion_pretrain.py"

    def listed(*overrides: str) -> dict[str, Any]:
        assert main(["adapt", "--list", spec, *overrides, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    whole = listed()
    assert whole["trainable"] == whole["total"] == 427_616_513
    assert whole["bytes"]["gradients"] == 4 * whole["total"]
    assert whole["bytes"]["optimizer"] == pytest.approx(8 * whole["total"], abs=1000)
    lora = listed("--config.adapter={'kind': 'lora', 'rank': 8}", "--config.optimizer={'name': 'adamw', 'lr': 1e-3}")
    # Two kernels of 24 image and of 12 text layers, each with two factors of rank 8.
    assert lora["trainable"] == 2 * 8 * 2 * (24 * 1024 + 12 * 768)
    assert lora["bytes"]["optimizer"] == pytest.approx(8 * lora["trainable"], abs=1000)
    assert lora["bytes"]["parameters"] - whole["bytes"]["parameters"] < 4 * lora["trainable"] + 1000
    assert lora["bytes"]["activations"] > 0
    assert lora["bytes"]["step"] < whole["bytes"]["step"]
