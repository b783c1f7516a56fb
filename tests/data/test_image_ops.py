"""Evaluation pictures equal transformers' Pillow processors and open_clip's transform to the bit."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jvlm.core.errors import ConfigError, UserError
from jvlm.data import image_ops
from jvlm.data.image_spec import CLIP_MEAN, CLIP_STD, ImageSpec
from tests import reference as _reference  # makes transformers and open_clip importable
from tests.data import pictures

assert _reference

SIZES = [(40, 40), (41, 67), (67, 41), (224, 225), (13, 300), (300, 13), (7, 9), (55, 56), (101, 64)]


def clip_reference(image, side: int) -> np.ndarray:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)


def siglip_reference(image, side: int) -> np.ndarray:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(size={"height": side, "width": side})
    return processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("side", [32, 55])
def test_clip_pictures_equal_transformers_to_the_bit(height, width, side):
    image = pictures.photo(height, width)
    np.testing.assert_array_equal(image_ops.preprocess(image, ImageSpec.clip(side)), clip_reference(image, side))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("side", [32, 55])
def test_siglip_pictures_equal_transformers_to_the_bit(height, width, side):
    image = pictures.photo(height, width)
    np.testing.assert_array_equal(image_ops.preprocess(image, ImageSpec.siglip(side)), siglip_reference(image, side))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize("crop", [(32, 48), (48, 20), (70, 70), (71, 70)])
def test_crops_larger_and_smaller_than_the_picture_equal_transformers(interpolation, crop):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image = pictures.photo(41, 67)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 36},
        crop_size={"height": crop[0], "width": crop[1]},
        resample=image_ops.RESAMPLING[interpolation],
    )
    spec = ImageSpec.clip(crop, resize_to=36, interpolation=interpolation)
    reference = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(image_ops.preprocess(image, spec), reference)


@pytest.mark.filterwarnings("ignore:Palette images:UserWarning", "ignore:.*unclosed file|.*Exception ignored")  # theirs
@pytest.mark.parametrize("name", sorted(pictures.modes()))
def test_files_of_every_mode_equal_transformers_given_the_file(tmp_path, name):
    data = pictures.modes()[name]
    (tmp_path / name).write_bytes(data)
    path = str(tmp_path / name)
    reference = clip_reference(path, 32)
    np.testing.assert_array_equal(image_ops.preprocess(data, ImageSpec.clip(32)), reference)
    np.testing.assert_array_equal(image_ops.preprocess(path, ImageSpec.clip(32)), reference)


@pytest.mark.filterwarnings("ignore:Palette images:UserWarning")
@pytest.mark.parametrize("name", sorted(pictures.modes()))
def test_pil_pictures_of_every_mode_equal_transformers_given_the_picture(name):
    data = pictures.modes()[name]
    reference = clip_reference(Image.open(io.BytesIO(data)), 32)
    np.testing.assert_array_equal(image_ops.preprocess(Image.open(io.BytesIO(data)), ImageSpec.clip(32)), reference)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_equal_transformers(channels):
    array = np.random.default_rng(0).integers(0, 256, (37, 45, channels), np.uint8)
    np.testing.assert_array_equal(image_ops.preprocess(array, ImageSpec.clip(32)), clip_reference(array, 32))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pictures_equal_open_clip_to_the_bit(height, width):
    from open_clip.transform import image_transform

    image = pictures.photo(height, width)
    transform: Any = image_transform(33, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    ours = image_ops.preprocess(image, ImageSpec.clip(33, style="open_clip"))
    np.testing.assert_array_equal(ours, transform(image).numpy().transpose(1, 2, 0))


@pytest.mark.filterwarnings("ignore:Palette images:UserWarning")
@pytest.mark.parametrize("name", sorted(set(pictures.modes()) - {"sixteen_bit", "tiff_float"}))
def test_files_of_every_mode_equal_open_clip(name):
    from open_clip.transform import image_transform

    data = pictures.modes()[name]
    transform: Any = image_transform(32, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    reference = transform(Image.open(io.BytesIO(data))).numpy().transpose(1, 2, 0)
    ours = image_ops.preprocess(data, ImageSpec.clip(32, style="open_clip"))
    np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("style", ["transformers", "open_clip"])
def test_all_256_values_are_normalized_as_the_references_do(style):
    import torch

    values = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=-1)
    ours = image_ops.normalize(values, ImageSpec.clip(256, style=style))[0]
    mean, std = (np.asarray(v, np.float32) for v in (CLIP_MEAN, CLIP_STD))
    if style == "open_clip":
        scaled = (torch.arange(256, dtype=torch.uint8).to(torch.float32) / 255).numpy()
    else:
        scaled = (np.arange(256).astype(np.float64) * (1 / 255)).astype(np.float32)
    np.testing.assert_array_equal(ours, (scaled[:, None] - mean) / std)


def test_another_rescale_equals_efficientnets_offset():
    from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil

    image = pictures.photo(41, 67)
    processor = EfficientNetImageProcessorPil(
        size={"height": 35, "width": 35}, rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False,
        include_top=False, do_convert_rgb=True,
    )  # fmt: skip
    spec = ImageSpec(size=(35, 35), rescale=1 / 127.5, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0))
    reference = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(image_ops.preprocess(image, spec), reference)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_by_its_header(monkeypatch):
    data = pictures.bomb()
    assert len(data) < 12_500
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(image_ops.BadPicture, match=r"10000 x 10000.*300 MB.*limit is 268 MB") as error:
        image_ops.read_picture(data)
    assert error.value.cause == "oversized picture"


def test_enormous_headers_are_oversized_too():
    with pytest.raises(image_ops.BadPicture) as error:
        image_ops.read_picture(pictures.bomb(60_000))
    assert error.value.cause == "oversized picture"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_truncated_and_garbled_files_are_corrupt(kind):
    data = pictures.encode(pictures.photo(64, 64), kind)
    for bad in (data[: len(data) // 2], b"", b"not a picture", data[:30]):
        with pytest.raises(image_ops.BadPicture) as error:
            image_ops.read_picture(bad)
        assert error.value.cause == "corrupt picture"
        assert " at 0x" not in str(error.value), "names an object in memory"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # broken TIFF tags
def test_every_cut_and_flip_of_a_file_either_decodes_or_is_a_bad_picture():
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        data = pictures.encode(pictures.photo(16, 16), kind)
        for _ in range(40):
            bad = bytearray(data[: rng.integers(1, len(data) + 1)])
            for at in rng.integers(0, len(bad), 3):
                bad[at] = rng.integers(256)
            try:
                image_ops.preprocess(bytes(bad), ImageSpec.siglip(8))
            except image_ops.BadPicture:
                continue


def test_a_missing_file_and_a_wrong_array_are_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png: no such file"):
        image_ops.read_picture(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"float32 \(4, 4, 3\)"):
        image_ops.read_picture(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(UserError, match=r"4 x 4.*takes only \(8, 8\)"):
        image_ops.preprocess(np.zeros((4, 4, 3), np.uint8), ImageSpec(size=(8, 8), resize="none"))


def test_a_spec_that_cannot_fill_its_size_is_refused():
    with pytest.raises(ConfigError, match="crop=True"):
        ImageSpec(size=(8, 8), resize="shortest")
    with pytest.raises(ConfigError, match="crop=True"):
        ImageSpec(size=(8, 8), resize_to=16)
    with pytest.raises(ConfigError, match="one side"):
        ImageSpec(size=(8, 8), resize="shortest", crop=True, resize_to=(8, 9))
