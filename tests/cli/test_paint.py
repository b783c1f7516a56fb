"""`jvlm paint` against diffusers' pipelines, and what it writes and refuses."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jvlm
from jvlm.cli.main import main
from jvlm.core.errors import UserError
from jvlm.generate import painting
from tests.cli.pipelines import PIPELINES
from tests.interop import directories
from tests.notebook_cells import execute
from tests.reference_diffusers import diffusers, torch

# diffusers makes arrays of tensors in a way that numpy will stop to accept.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PROMPT, NEGATIVE = "a red apple", "blue"


@dataclass(frozen=True)
class Saved:
    """A pipeline, the directory that it saved, and latents of a picture."""

    pipeline: Any
    directory: Path
    latents: Path


def opened(name: str, folder: Path) -> Saved:
    pipeline = PIPELINES[name](folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder / "model")
    np.save(folder / "latents.npy", np.random.default_rng(0).normal(size=(1, 4, 4, 4)).astype(np.float32))
    return Saved(pipeline, folder / "model", folder / "latents.npy")


@pytest.fixture(scope="module", params=PIPELINES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return opened(request.param, tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return opened("StableDiffusionPipeline", tmp_path_factory.mktemp("first"))


def painted(*arguments: Any) -> np.ndarray:
    """The picture that the command writes to its --output."""
    words = list(map(str, arguments))
    assert main(["paint", *words]) == 0
    return np.asarray(Image.open(words[words.index("--output") + 1]))


def theirs(pipeline: Any, latents: Path, **options: Any) -> np.ndarray:
    x = torch.from_numpy(np.load(latents))
    return pipeline(PROMPT, latents=x, height=8, width=8, output_type="np", **options).images[0] * 255


def test_pixels_are_those_of_the_pipeline(saved: Saved, tmp_path: Path) -> None:
    # SD: a negative prompt, the file's PNDM. SDXL: zeros for the negative prompt, the file's Euler.
    negative = NEGATIVE if hasattr(saved.pipeline.scheduler, "ets") else None
    options = ["--model", saved.directory, "--prompt", PROMPT, "--latents", saved.latents, "--steps", 20]
    options += ["--negative", negative] if negative else []
    out = painted(*options, "--guidance", 5, "--output", tmp_path / "out.png")
    settings = dict(num_inference_steps=20, guidance_scale=5.0, negative_prompt=negative)
    wanted = theirs(saved.pipeline, saved.latents, **settings)
    assert wanted.std() > 10  # not one color
    assert np.abs(out - wanted).max() <= 2


def test_another_sampler_is_told_what_the_file_says(first: Saved, tmp_path: Path) -> None:
    options = ["--model", first.directory, "--prompt", PROMPT, "--latents", first.latents, "--steps", 20]
    out = painted(*options, "--guidance", 5, "--sampler", "ddim", "--rescale", 0.7, "--output", tmp_path / "out.png")
    own = first.pipeline.scheduler
    first.pipeline.scheduler = diffusers.DDIMScheduler.from_pretrained(first.directory / "scheduler")
    settings = dict(num_inference_steps=20, guidance_scale=5.0, guidance_rescale=0.7)
    wanted = theirs(first.pipeline, first.latents, **settings)
    first.pipeline.scheduler = own
    assert np.abs(out - wanted).max() <= 2


def test_exported_directory_is_opened_and_imported_to_the_bit(saved: Saved, tmp_path: Path) -> None:
    source = jvlm.load(saved.directory)
    jvlm.save(source, tmp_path / "out", format="diffusers")
    again = jvlm.load(tmp_path / "out")
    assert again.model == source.model
    assert again.processor.fingerprint() == source.processor.fingerprint()
    directories.assert_same_bits({"params": again.params}, {"params": source.params})
    opened = type(saved.pipeline).from_pretrained(tmp_path / "out")
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if (part := getattr(saved.pipeline, name, None)) is not None:
            state = getattr(opened, name).state_dict()
            assert all(torch.equal(x, state[key]) for key, x in part.state_dict().items()), name
    theirs, ours = (pipeline.scheduler.config.items() for pipeline in (saved.pipeline, opened))
    assert {key: x for key, x in ours if key[0] != "_"} == {key: x for key, x in theirs if key[0] != "_"}


def test_a_picture_is_the_same_alone_on_one_device_and_among_eight_on_eight(first: Saved, tmp_path: Path) -> None:
    assert jax.device_count() == 8
    prompts = ["a dog", "a red apple", *"abcdef"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    shared = ["--model", first.directory, "--steps", 3, "--seed", 5, "--sampler", "dpm++-sde"]
    words = [*shared, "--prompts", tmp_path / "prompts.txt", "--batch-size", 8, "--sheet", tmp_path / "sheet.png"]
    assert main(["paint", *map(str, words), "--output", str(tmp_path / "many.png")]) == 0
    alone = painted(*shared, "--prompt", "a dog", "--output", tmp_path / "one.png")
    many = [np.asarray(Image.open(tmp_path / f"many-000{index}.png"), int) for index in range(8)]
    assert np.abs(many[0] - alone).max() <= 1
    assert all(np.abs(many[0] - other).max() > 10 for other in many[1:])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert np.array_equal(sheet[:8], np.concatenate(many[:3], axis=1))
    picture: Any = Image.open(tmp_path / "many-0001.png")
    told = json.loads(picture.text["jvlm"])
    assert (told["prompt"], told["seed"], told["steps"], told["sampler"]) == ("a red apple", 5, 3, "dpm++-sde")


def test_the_notebook_paints(first: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    execute("paint", MODEL=str(first.directory), STEPS=2, DTYPE="float32")
    sizes = {np.asarray(Image.open(tmp_path / name)).shape for name in ("painted-0003.png", "winter.png")}
    assert len(sizes) == 1 and (tmp_path / "sheet.png").is_file()


def test_pictures_are_written_as_they_are_painted(
    first: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = iter([np.zeros((2, 8, 8, 3), np.uint8)])

    def paint(*args: Any, **options: Any) -> np.ndarray:
        if (batch := next(batches, None)) is None:
            raise UserError("the machine is gone")
        return batch

    monkeypatch.setattr(painting, "paint", paint)
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\nfour")
    words = ["--model", first.directory, "--prompts", tmp_path / "prompts.txt", "--batch-size", 2, "--steps", 2]
    assert main(["paint", *map(str, words), "--output", str(tmp_path / "out.png")]) == 1
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out-0000.png", "out-0001.png"]


def test_what_the_mask_leaves_is_the_picture(first: Saved, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / "in.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "mask.png")
    words = ["--model", first.directory, "--prompt", "a dog", "--steps", 4, "--image", tmp_path / "in.png"]
    words += ["--mask", tmp_path / "mask.png", "--strength", 0.5]
    kept = painted(*words, "--output", tmp_path / "kept.png")
    m = jvlm.load(first.directory)
    model: Any = m.model

    def again(params: Any, image: jax.Array) -> Any:
        latents = model.apply({"params": params}, image, method="encode")
        return model.apply({"params": params}, latents, method="decode")

    image = np.asarray(Image.open(tmp_path / "in.png"), np.float32)[None] / 127.5 - 1
    wanted = np.asarray(jax.jit(again)(m.params, image)[0])
    assert np.abs(kept - np.round(np.clip(wanted / 2 + 0.5, 0, 1) * 255)).max() <= 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--size", "9x8"], 2, "multiples of 2, such as 8x8"),
        (["--size", "big"], 2, "write WIDTHxHEIGHT"),
        (["--sampler", "dimd"], 2, "'dimd' is unknown; did you mean 'ddim'"),
        (["--steps", "1001"], 2, "1001 steps"),
        (["--mask", "F"], 2, "need the --image"),
        (["--tile", "6"], 2, "give a multiple of 8 pixels"),
        (["--latents", "nowhere.npy"], 1, "nowhere.npy: no such file"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], status: int, message: str, first: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "out.png")]
    assert main(["paint", "--model", str(first.directory), "--prompt", "a dog", *words, *output]) == status
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_a_mask_of_another_size_and_a_missing_folder_are_named(
    first: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, side in (("in.png", 8), ("mask.png", 4)):
        Image.new("RGB", (side, side)).save(tmp_path / name)
    words = ["paint", "--model", str(first.directory), "--prompt", "a dog", "--output", str(tmp_path / "out.png")]
    assert main([*words, "--image", str(tmp_path / "in.png"), "--mask", str(tmp_path / "mask.png")]) == 1
    assert "mask.png is 4x4" in capsys.readouterr().err
    (tmp_path / "broken").mkdir()
    index = (first.directory / "model_index.json").read_text()
    (tmp_path / "broken" / "model_index.json").write_text(index)
    with pytest.raises(UserError, match="unet is missing"):
        jvlm.load(tmp_path / "broken")


def test_an_adapter_paints_as_in_the_pipeline_put_on_or_merged(first: Saved, tmp_path: Path) -> None:
    from tests.interop import lora_files

    pipeline = lora_files.fresh(first.directory, "StableDiffusionPipeline")
    pipeline.set_progress_bar_config(disable=True)
    added = lora_files.add(pipeline, r=4, lora_alpha=8)
    layers = {f"{part}_lora_layers": state for part, (_, state) in added.items()}
    told = {f"{part}_lora_adapter_metadata": config for part, (config, _) in added.items()}
    pipeline.save_lora_weights(tmp_path / "lora", **layers, **told)
    wanted = theirs(pipeline, first.latents, num_inference_steps=5, guidance_scale=5.0)
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    shared = ["--prompt", PROMPT, "--latents", first.latents, "--steps", 5, "--guidance", 5]
    words = [*shared, "--model", first.directory, "--output", tmp_path / "out.png"]
    assert np.abs(painted(*words, "--adapter", file) - wanted).max() <= 2
    assert np.abs(painted(*words, "--adapter", file, "--weight", 0) - wanted).max() > 10
    assert main(["adapt", str(first.directory), "--adapter", str(file), "--merge", str(tmp_path / "merged")]) == 0
    out = painted(*shared, "--model", tmp_path / "merged", "--output", tmp_path / "merged.png")
    assert np.abs(out - wanted).max() <= 2
