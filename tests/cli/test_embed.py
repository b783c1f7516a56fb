"""`jvlm embed` writes what transformers computes from the same directory and files, in the order given."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.cli.directories import run_error, run_json, write_clip
from tests.evals import tiny
from tests.reference import torch, transformers

TEXTS = ["a red square", "two cats, and a dog!", "x"]


def reference(directory: str, pictures: list[str], texts: list[str]) -> dict[str, np.ndarray]:
    model = transformers.CLIPModel.from_pretrained(directory).eval()
    processor = transformers.CLIPImageProcessorPil.from_pretrained(directory)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(directory)
    image = processor([Image.open(path) for path in pictures], return_tensors="pt")
    text = tokenizer(texts, padding="max_length", max_length=tiny.LENGTH, truncation=True, return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=image["pixel_values"], input_ids=text["input_ids"])
    return dict(image=out.image_embeds.numpy(), text=out.text_embeds.numpy(), logits=out.logits_per_image.numpy())


def test_arrays_equal_transformers(clip: str, pictures: list[str], tmp_path: Path, capsys) -> None:
    out = tmp_path / "deep" / "out.npz"
    argv = ("--model", clip, "--images", *pictures, "--texts", *TEXTS, "--output", str(out), "--batch-size", "2")
    said = run_json(capsys, "embed", *argv)
    assert said == {"output": str(out), "image": [5, 24], "text": [3, 24], "logits": [5, 3]}
    expected = reference(clip, pictures, TEXTS)
    with np.load(out, allow_pickle=False) as found:
        assert set(found.files) == set(expected)
        for name, array in expected.items():
            assert found[name].dtype == np.float32
            scale = 1 if name != "logits" else np.abs(array).max()
            np.testing.assert_allclose(found[name], array, atol=1e-5 * scale)


def test_one_side_alone(clip: str, pictures: list[str], tmp_path: Path, capsys) -> None:
    out = tmp_path / "a.npz"
    run_json(capsys, "embed", "--model", clip, "--texts", *TEXTS, "--output", str(out))
    with np.load(out) as found:
        assert found.files == ["text"]
    other = tmp_path / "b.npz"
    run_json(capsys, "embed", "--model", clip, "--images", pictures[3], "--output", str(other))
    with np.load(other) as found:
        assert found.files == ["image"]
        assert found["image"].shape == (1, 24)


def test_embeddings_that_are_no_numbers_are_not_written(clip: str, tmp_path: Path, capsys) -> None:
    bad = tmp_path / "model"
    shutil.copytree(clip, bad)
    tensors = load_file(bad / "model.safetensors")
    tensors["text_projection.weight"][0, 0] = np.nan
    save_file(tensors, bad / "model.safetensors", {"format": "pt"})
    argv = ("--model", str(bad), "--texts", "a", "--output", str(tmp_path / "o.npz"))
    status, said = run_error(capsys, "embed", *argv)
    assert status == 1 and f"{bad}: gives embeddings that are not finite" in said and "jvlm verify" in said
    assert not (tmp_path / "o.npz").exists()


def test_wrong_input_is_one_line_that_names_it(clip: str, pictures: list[str], tmp_path: Path, capsys) -> None:
    out = ("--output", str(tmp_path / "o.npz"))
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not a picture")
    cut = tmp_path / "cut.png"
    cut.write_bytes(Path(pictures[0]).read_bytes()[:-40])
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in ("config.json", "status.json"):
        (begun / name).write_text("{}")
    cases = [
        (1, "missing.png: no such picture", ("--model", clip, "--images", str(tmp_path / "missing.png"))),
        (1, "pictures: a folder, not a picture", ("--model", clip, "--images", str(tmp_path / "pictures"))),
        (1, "bad.png: not a readable picture", ("--model", clip, "--images", *pictures, str(bad))),
        (1, "cut.png: broken picture data", ("--model", clip, "--images", str(cut))),
        (1, "nowhere does not exist", ("--model", str(tmp_path / "nowhere"), "--texts", "a")),
        (1, "begun is a run without a checkpoint so far", ("--model", str(begun), "--texts", "a")),
        (2, "give --images F... or --texts T...", ("--model", clip)),
        (2, "--batch-size: 0 does not do", ("--model", clip, "--texts", "a", "--batch-size", "0")),
        (2, "did you mean '--texts'", ("--model", clip, "--text=a")),
        (2, "did you mean '--model'", ("--modle", clip, "--texts", "a")),
        (1, "bad.png already exists", ("--model", clip, "--texts", "a", "--output", str(bad))),
    ]
    for status, text, argv in cases:
        found, said = run_error(capsys, "embed", *out, *argv)
        assert found == status, said
        assert text in said
    assert not (tmp_path / "o.npz").exists()


def test_a_model_without_text_says_so(pictures: list[str], tmp_path: Path, capsys) -> None:
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    folder = tmp_path / "vit"
    transformers.ViTModel(config).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    out = str(tmp_path / "o.npz")
    status, said = run_error(capsys, "embed", "--model", str(folder), "--texts", "a", "--output", out)
    assert status == 1
    assert "no text tower" in said
    assert run_json(capsys, "embed", "--model", str(folder), "--images", *pictures, "--output", out)["image"] == [5, 16]


def test_a_directory_without_tokenizer_says_so(tmp_path: Path, capsys) -> None:
    folder = write_clip(tmp_path / "model")
    for file in folder.iterdir():
        if file.name not in ("config.json", "model.safetensors", "preprocessor_config.json"):
            file.unlink()
    status, said = run_error(capsys, "embed", "--model", str(folder), "--texts", "a", "--output", str(tmp_path / "o"))
    assert status == 1
    assert "no tokenizer" in said


def test_output_that_cannot_be_written_is_one_line(clip: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    status, said = run_error(
        capsys, "embed", "--model", clip, "--texts", "a", "--output", str(tmp_path / "file" / "o.npz")
    )
    assert status == 1
    assert "cannot be written" in said
