"""Augmentation is the identity at its defaults, repeats for a seed, and stays within its bounds."""

import numpy as np
import pytest
from PIL import Image

from jvlm.data import image_ops
from jvlm.data.augment import Augment, augmented, change_colour, change_geometry, random_box
from jvlm.data.image_spec import ImageSpec
from tests.data import pictures

ALL = Augment(crop_scale=(0.3, 0.9), flip=0.5, zoom=(0.8, 1.2), shift=0.1, rotate=20, hue=40, saturation=0.5, grey=0.2)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_default_changes_nothing():
    data = pictures.encode(pictures.photo(50, 70))
    spec = ImageSpec.clip(32)
    np.testing.assert_array_equal(augmented(data, spec, Augment(), rng()).pixels, image_ops.preprocess(data, spec))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
def test_exif_orientation_is_applied_as_in_evaluation(turn, decoder):
    data = pictures.modes()[f"exif_{turn}"]
    spec = ImageSpec.siglip((20, 28))
    ours = augmented(data, spec, Augment(draft=False, decoder=decoder), rng()).pixels
    np.testing.assert_allclose(ours, image_ops.preprocess(data, spec), atol=0.03)


@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
def test_a_seed_repeats_and_another_differs(decoder):
    data = pictures.jpeg(200, 300)
    augment = Augment(**{**vars(ALL), "decoder": decoder})
    a, b, c = (augmented(data, ImageSpec.clip(32), augment, rng(s)).pixels for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0.1
    assert a.shape == (32, 32, 3)


@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
def test_draft_decodes_fewer_pixels_to_nearly_the_same_picture(decoder, monkeypatch):
    data = pictures.encode(pictures.photo(400, 560).resize((560, 400)), "JPEG", quality=95)
    spec = ImageSpec.clip(40)
    full = augmented(data, spec, Augment(draft=False, decoder=decoder), rng()).pixels
    seen = []
    fit = image_ops.fit
    monkeypatch.setattr(image_ops, "fit", lambda image, spec: seen.append(image.size) or fit(image, spec))
    quick = augmented(data, spec, Augment(decoder=decoder), rng()).pixels
    assert seen == [(70, 50)]
    assert np.abs(full - quick).mean() < 0.05


def test_crops_lie_inside_and_cover_the_area_asked_for():
    augment = Augment(crop_scale=(0.2, 0.5))
    for seed in range(200):
        left, top, right, bottom = random_box((300, 200), augment, rng(seed))
        assert 0 <= left < right <= 300
        assert 0 <= top < bottom <= 200
        area = (right - left) * (bottom - top) / 60_000
        assert 0.19 < area < 0.51
        assert 0.73 < (right - left) / (bottom - top) < 1.36


def test_a_picture_too_long_for_any_crop_gives_its_middle():
    left, top, right, bottom = random_box((1000, 10), Augment(crop_scale=(0.9, 1.0)), rng())
    assert (top, bottom) == (0, 10)
    assert (left + right) / 2 == pytest.approx(500)
    assert (right - left) / 10 == pytest.approx(4 / 3)


def test_geometry_mirrors_shifts_and_turns_about_the_centre():
    image = pictures.photo(32, 32)
    mirrored = change_geometry(image, Augment(), rng(), mirror=True)
    np.testing.assert_array_equal(np.asarray(mirrored), np.asarray(image)[:, ::-1])
    barely = Augment(zoom=(1.0, 1.0 + 1e-9))
    resampled = np.asarray(change_geometry(image, barely, rng(), mirror=True), np.int16)
    assert np.abs(resampled - np.asarray(mirrored)).max() <= 1  # bilinear weights round down
    dot = Image.new("RGB", (33, 33))
    dot.putpixel((16, 16), (255, 255, 255))
    turned = np.asarray(change_geometry(dot, Augment(rotate=180, zoom=(1.0, 1.001)), rng()))
    assert turned[16, 16, 0] > 200
    corner = np.asarray(change_geometry(dot, Augment(zoom=(0.5, 0.5), background=(7, 8, 9)), rng()))[0, 0]
    assert tuple(corner) == (7, 8, 9)


def test_colour_keeps_greys_and_luma():
    grey = Image.new("RGB", (4, 4), (99, 99, 99))
    changed = np.asarray(change_colour(grey, Augment(hue=180, saturation=0.9), rng(3)), np.int16)
    assert np.abs(changed - 99).max() <= 1
    image = pictures.photo(16, 16)
    flat = np.asarray(change_colour(image, Augment(grey=1.0), rng()), np.int16)
    assert np.abs(flat - flat[..., :1]).max() <= 1
    luma = np.asarray(image.convert("L"), np.int16)
    assert np.abs(flat[..., 0] - luma).max() <= 2


@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
@pytest.mark.parametrize("cut", [0.3, 0.9, 0.99])
def test_truncated_jpegs_are_corrupt_for_every_decoder(decoder, cut):
    data = pictures.jpeg(120, 160)
    with pytest.raises(image_ops.BadPicture) as error:
        augmented(data[: int(len(data) * cut)], ImageSpec.clip(32), Augment(decoder=decoder), rng())
    assert error.value.cause == "corrupt picture"


def test_opencv_never_sees_a_jpeg_without_its_end(monkeypatch):
    # Its 4.x releases fill the missing part in silence.
    monkeypatch.setattr("jvlm.data.augment._opencv", lambda *_: pytest.fail("asked opencv"))
    with pytest.raises(image_ops.BadPicture):
        augmented(pictures.jpeg()[:-200], ImageSpec.clip(32), Augment(decoder="opencv"), rng())


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_in_training_too():
    with pytest.raises(image_ops.BadPicture, match="300 MB"):
        augmented(pictures.bomb(), ImageSpec.clip(32), ALL, rng())


@pytest.mark.parametrize("name", sorted(pictures.modes()))
@pytest.mark.filterwarnings("ignore:Palette images:UserWarning")
def test_every_mode_is_augmented(name):
    out = augmented(pictures.modes()[name], ImageSpec.siglip(24), ALL, rng()).pixels
    assert out.shape == (24, 24, 3)
    assert np.isfinite(out).all()
