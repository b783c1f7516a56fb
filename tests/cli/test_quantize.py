"""`jvlm quantize`: a directory that every verb reads, a receipt that is true, and a refusal that leaves nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jvlm
from jvlm.core.tree import flatten
from jvlm.transforms.account import stored_bytes
from jvlm.transforms.qtensor import QTensor
from tests.cli.directories import run_error, run_json, write_pictures

TARGETS = ("--targets", "*kernel", "*token_embed/embedding", "--group", "16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classes")
    for seed, name in enumerate(("cat", "dog", "fish")):
        write_pictures(root / name, 3, seed)
    return root


def embedded(capsys: pytest.CaptureFixture[str], model: str, pictures: list[str], out: Path) -> Any:
    given = ["--images", *pictures, "--texts", "a cat", "a dog", "--output", str(out)]
    run_json(capsys, "embed", "--model", model, *given)
    return np.load(out)


def test_the_directory_is_read_by_every_verb_and_the_receipt_is_true(
    clip: str, pictures: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    given = ("--scheme", "int4", *TARGETS, "--suite", "zero_shot", "--data", str(folder), "--max-drop", "1")
    receipt = run_json(capsys, "quantize", clip, out, *given)
    assert receipt == json.loads((tmp_path / "out" / "receipt.json").read_text())
    source, ours = jvlm.load(clip), jvlm.load(out)
    found = {path: leaf for path, leaf in flatten(ours.params).items() if isinstance(leaf, QTensor)}
    assert "text_tower/token_embed/embedding" in found and len(found) >= 15
    sizes = receipt["bytes"]
    assert sizes["before"] == stored_bytes(source.params) and sizes["after"] == stored_bytes(ours.params)
    assert sizes["ratio"] < 0.3 and sizes["per_quantized_parameter"] == pytest.approx(0.5 + 4 / 16)
    path = "image_tower/blocks/layers/attn/out/kernel"
    wanted, actual = (np.asarray(x)[1] for x in (flatten(source.params)[path], found[path].dequantize()))
    error = next(row["error"] for row in receipt["layers"] if row["path"] == path and row["layer"] == 1)
    assert error == pytest.approx(np.linalg.norm(actual - wanted) / np.linalg.norm(wanted), rel=1e-5)
    assert [row["error"] for row in receipt["worst"]] == sorted((r["error"] for r in receipt["layers"]), reverse=True)[
        :10
    ]
    before = embedded(capsys, clip, pictures, tmp_path / "before.npz")
    after = embedded(capsys, out, pictures, tmp_path / "after.npz")
    assert 0.8 < float((before["image"] * after["image"]).sum(-1).mean()) < 0.99999
    assert 0.8 < receipt["cosine"]["image"]["lowest"] <= receipt["cosine"]["image"]["mean"] < 0.99999
    scores = run_json(capsys, "evaluate", "--model", out, "--suite", "zero_shot", "--data", str(folder))["zero_shot"]
    for metric, values in receipt["evaluation"].items():
        assert values["after"] == scores[metric]["value"]
        assert values["change"] == pytest.approx(values["after"] - values["before"])
    run_json(capsys, "classify", "--model", out, "--images", pictures[0], "--classes", "cat", "dog")
    assert run_json(capsys, "verify", out)["ok"]
    report = (tmp_path / "out" / "receipt.html").read_text()
    assert report.count("<svg") == 2 and "attn/out" in report and "zero_shot" in report


def test_a_drop_beyond_the_limit_is_refused_in_one_line_and_nothing_is_written(
    clip: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ("--scheme", "int4", "--group", "16", "--suite", "zero_shot", "--data", str(folder))
    status, message = run_error(capsys, "quantize", clip, str(out), *given, "--max-drop", "-1")
    assert status == 1 and "more than --max-drop -1" in message and "is not written" in message
    assert not out.exists() and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_calibration_is_on_pictures_of_the_package(
    method: str, clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ("--scheme", "nf4", "--group", "16", "--double", "--calibrate", method)
    receipt = run_json(capsys, "quantize", clip, str(out), *given)
    assert receipt["calibrate"] == method and receipt["calibrated_on"] == 32
    leaf = flatten(jvlm.load(out).params)["text_tower/blocks/layers/mlp/up/kernel"]
    assert leaf.magnitude is not None and (leaf.inner is not None) == (method == "awq")


def test_packed_directories_are_written_and_exported_densely(
    clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, dense = tmp_path / "packed", tmp_path / "dense"
    given = ("--scheme", "int8", "--group", "16", "--format", "compressed-tensors")
    run_json(capsys, "quantize", clip, str(packed), *given)
    config = json.loads((packed / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert (packed / "receipt.html").is_file() and (packed / "preprocessor_config.json").is_file()
    run_json(capsys, "export", str(packed), str(dense))
    assert "quantization_config" not in json.loads((dense / "config.json").read_text())
    status, message = run_error(capsys, "quantize", str(packed), str(tmp_path / "again"), "--scheme", "int4")
    assert status == 1 and "is quantized already (int8)" in message


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--scheme", "int44"), 2, "did you mean 'int4'"),
        (("--scheme", "int4", "--format", "gguf"), 2, "format 'gguf' is unknown"),
        (("--scheme", "int4", "--calibrate", "gptk"), 2, "did you mean 'gptq'"),
        (("--scheme", "int4", "--max-drop", "0.1"), 2, "name it with --suite"),
        (("--scheme", "int4", "--targets", "*kernl"), 2, "matches no parameter"),
        (("--scheme", "nf4", "--group", "16", "--format", "compressed-tensors"), 1, "is nf4, which compressed-tensors"),
    ],
)
def test_a_wrong_command_line_gets_one_line_and_writes_nothing(
    options: tuple[str, ...], status: int, message: str, clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    actual, error = run_error(capsys, "quantize", clip, str(tmp_path / "out"), *options)
    assert actual == status and message in error
    assert not (tmp_path / "out").exists()
