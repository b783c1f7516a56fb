"""Export, import and verify: what one format writes the others and the reference libraries read alike."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jvlm
from jvlm.checkpoint.parts import read_parts
from jvlm.cli.main import main
from jvlm.core.tree import flatten
from jvlm.train.loop import train
from tests.train.cases import ROOT, toy_config

TEXTS = ["a photo of a cat", "grinning face, happy joy", "12 red balloons"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(toy_config("steps=2", "checkpoint_every=1"), str(folder), quiet=True)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = []
    for name, size in (("wide.png", (61, 40)), ("tall.webp", (33, 90)), ("small.jpg", (17, 19))):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(folder / name, quality=95)
        paths.append(folder / name)
    return paths


def embed(model: Path, pictures: list[Path], out: Path) -> Any:
    command = ["embed", "--model", str(model), "--images", *map(str, pictures), "--texts", *TEXTS, "--output", str(out)]
    assert main(command) == 0
    return np.load(out)


@pytest.fixture(scope="module")
def mine(workdir: Path, pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return embed(workdir, pictures, tmp_path_factory.mktemp("npz") / "mine.npz")


def test_transformers_gives_the_same_embeddings_with_the_exported_processor_and_tokenizer(
    workdir: Path, pictures: list[Path], mine: Any, tmp_path: Path
) -> None:
    from tests.reference import torch, transformers

    assert main(["export", str(workdir), str(tmp_path / "hf")]) == 0
    loaded: Any = transformers.CLIPModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    model, info = loaded
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokens = transformers.CLIPTokenizer.from_pretrained(tmp_path / "hf")(
        TEXTS, padding="max_length", return_tensors="pt"
    )
    pixels = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path / "hf")(
        [Image.open(path) for path in pictures], return_tensors="pt"
    )
    with torch.no_grad():
        out = model(**tokens, **pixels)
    np.testing.assert_allclose(mine["image"], out.image_embeds, atol=1e-4)
    np.testing.assert_allclose(mine["text"], out.text_embeds, atol=1e-4)
    np.testing.assert_allclose(mine["logits"], out.logits_per_image, atol=1e-3)


def test_open_clip_gives_the_same_embeddings_with_its_own_tokenizer(
    workdir: Path, pictures: list[Path], mine: Any, tmp_path: Path
) -> None:
    from tests.reference_open_clip import open_clip, torch

    assert main(["export", str(workdir), str(tmp_path / "oc"), "--format", "open_clip"]) == 0
    name = f"local-dir:{tmp_path / 'oc'}"
    model: Any
    preprocess: Any
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    tokenizer: Any = open_clip.get_tokenizer(name)
    with torch.no_grad():
        zimg = model.encode_image(torch.stack([preprocess(Image.open(p)) for p in pictures]), normalize=True)
        ztxt = model.encode_text(tokenizer(TEXTS), normalize=True)
    np.testing.assert_allclose(mine["image"], zimg, atol=1e-4)
    np.testing.assert_allclose(mine["text"], ztxt, atol=1e-4)
    back = embed(tmp_path / "oc", pictures, tmp_path / "back.npz")
    np.testing.assert_allclose(back["image"], mine["image"], atol=1e-6)


@pytest.mark.parametrize("format", ["hf", "open_clip", "jvlm"])
def test_export_then_import_is_exact_to_the_bit(workdir: Path, tmp_path: Path, format: str) -> None:
    source = jvlm.load(workdir)
    jvlm.save(source, tmp_path / "out", format=format)
    if format != "jvlm":
        assert main(["import", str(tmp_path / "out"), str(tmp_path / "back")]) == 0
    back = jvlm.load(tmp_path / ("out" if format == "jvlm" else "back"))
    wanted = flatten(source.params)
    assert flatten(back.params).keys() == wanted.keys()
    for path, leaf in flatten(back.params).items():
        np.testing.assert_array_equal(leaf, wanted[path], err_msg=path)
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_nothing_that_exists_is_overwritten(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(workdir), str(workdir)]) == 1
    assert "already exists; choose another directory" in capsys.readouterr().err
    assert read_parts(workdir / "checkpoints", ("params",)).step == 2


def test_captions_that_two_formats_tokenize_differently_are_counted(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("a plain cat\nfish &amp; chips\nanother one\n")
    out = str(tmp_path / "oc")
    assert main(["export", str(workdir), out, "--format", "open_clip", "--captions", str(captions), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["captions"] == 3 and report["tokenized_differently"] == 1


def test_verify_names_what_is_wrong(workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jvlm.save(jvlm.load(workdir), tmp_path / "hf")
    weights = tmp_path / "hf" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    weights.write_bytes(bytes(data))
    assert main(["verify", str(tmp_path / "hf"), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"] and "not finite" in report["problems"][0]
    weights.write_bytes(bytes(data[:-100]))
    assert main(["verify", str(tmp_path / "hf")]) == 1
    assert "model.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        (["export", "nowhere", "out"], 1, "nowhere does not exist"),
        (["export", "{run}", "out", "--format", "onnx"], 2, "format 'onnx' is unknown"),
        (["exprot", "a", "b"], 2, "did you mean 'export'"),
        (["export", "a", "b", "--formt", "hf"], 2, "did you mean '--format'"),
        (["train", "--config", "clip_tiny_emoji_pretran.py", "--workdir", "w"], 2, "clip_tiny_emoji_pretrain.py"),
        (["verify", "nowhere"], 1, "does not exist"),
    ],
)
def test_a_wrong_command_line_gets_one_line(
    command: list[str], status: int, message: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([part.format(run=workdir) for part in command]) == status
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_help_is_quick_and_imports_no_jax() -> None:
    code = "import sys; from jvlm.cli.main import main; main(['--help']); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "False"
