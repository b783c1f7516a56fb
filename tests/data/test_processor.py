"""A processor is plain values: it survives its dict, and any change of a field changes its fingerprint."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from jvlm.core.errors import ConfigError, UserError
from jvlm.data.processor import ImageSpec, Processor, TextSpec
from jvlm.data.tokenizers import clip_tokenizer
from tests.data import pictures


def processor() -> Processor:
    tokenizer = clip_tokenizer()
    return Processor(ImageSpec.clip(32), TextSpec(length=12, pad_id=tokenizer.pad_id), tokenizer)


def test_it_survives_its_dict():
    ours = processor()
    again = Processor.from_dict(ours.to_dict(), ours.tokenizer.to_files() if ours.tokenizer else {})
    bundled = Processor.from_dict(ours.to_dict())
    assert again.fingerprint() == bundled.fingerprint() == ours.fingerprint()
    assert (again.image, again.text) == (ours.image, ours.text)
    np.testing.assert_array_equal(again.texts(["a cat"]), ours.texts(["a cat"]))


CHANGES = {
    "size": (32, 33), "resize": "exact", "resize_to": 40, "interpolation": "bilinear", "crop": False, "rescale": 1.0,
    "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "style": "open_clip",
}  # fmt: skip


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(ImageSpec)])
def test_every_image_field_enters_the_fingerprint(field):
    ours = processor()
    values = vars(ours.image) | {"resize": "none", "crop": True}
    base = dataclasses.replace(ours, image=ImageSpec(**values))
    changed = dataclasses.replace(ours, image=ImageSpec(**(values | {field: CHANGES[field]})))
    assert changed.fingerprint() != base.fingerprint()


def test_text_fields_and_tokenizer_enter_the_fingerprint():
    ours = processor()
    assert ours.text
    prints = {ours.fingerprint()}
    changes: list[dict[str, Any]] = [{"length": 13}, {"pad_id": 0}, {"padding_side": "left"}, {"clip": False}]
    for change in changes:
        text = TextSpec(**(vars(ours.text) | change))
        prints.add(dataclasses.replace(ours, text=text).fingerprint())
    prints.add(dataclasses.replace(ours, tokenizer=clip_tokenizer("open_clip")).fingerprint())
    assert len(prints) == 6


def test_pictures_from_bytes_paths_pil_and_arrays_agree(tmp_path):
    image = pictures.photo(40, 50)
    data = pictures.encode(image)
    (tmp_path / "a.png").write_bytes(data)
    out = processor().images([data, tmp_path / "a.png", str(tmp_path / "a.png"), image, np.asarray(image)])
    assert out.shape == (5, 32, 32, 3)
    assert (out == out[:1]).all()


def test_truncation_keeps_the_end_token_on_either_side():
    ours = processor()
    assert ours.tokenizer
    assert ours.text
    row = ours.texts(["word " * 50])[0]
    assert row[0] == ours.tokenizer.bos_id
    assert row[-1] == ours.tokenizer.eos_id
    text = TextSpec(length=6, pad_id=0, padding_side="left")
    left = dataclasses.replace(ours, text=text).texts(["cat"])[0]
    assert left.tolist()[:3] == [0, 0, 0]
    assert left[-1] == ours.tokenizer.eos_id
    with pytest.raises(UserError, match="52 tokens: the model takes 12"):
        dataclasses.replace(ours, text=dataclasses.replace(ours.text, clip=False)).texts(["word " * 50])


def test_what_is_missing_is_said():
    with pytest.raises(UserError, match="takes no pictures"):
        Processor().images([])
    with pytest.raises(UserError, match="takes no text"):
        Processor().texts(["a"])
    values = processor().to_dict()
    values["image"]["sise"] = values["image"].pop("size")
    with pytest.raises(ConfigError, match=r"'sise'.*did you mean 'size'"):
        Processor.from_dict(values)
