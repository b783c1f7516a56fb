"""Any-resolution tiles, their number of tokens and the order of their features equal transformers' LlavaNext."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from jvlm.core.errors import ConfigError
from jvlm.data.any_resolution import AnyResolution
from jvlm.data.image_spec import ImageSpec
from jvlm.data.pictures import NEWLINE
from tests.data import pictures
from tests.data.dialogues import SPECIALS, conversation, processor, tokenizer_files
from tests.reference import torch, transformers

TILE, PATCH = 28, 7
GRIDS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
SIZES = [(28, 28), (20, 70), (100, 30), (61, 60), (27, 29), (300, 31), (33, 47), (11, 13), (57, 113)]
LAYOUT = AnyResolution(ImageSpec.clip(TILE), TILE // PATCH, [(high, wide) for high, wide in GRIDS])


@pytest.fixture(scope="module")
def theirs() -> Any:
    image = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}, image_grid_pinpoints=GRIDS
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_files()["tokenizer.json"].decode()),
        additional_special_tokens=SPECIALS,
    )
    return transformers.LlavaNextProcessor(
        image, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


@pytest.mark.parametrize("size", SIZES)
def test_tiles_and_tokens_are_transformers(theirs, size):
    picture = pictures.photo(*size, seed=3)
    out = theirs(text="<image>", images=picture, return_tensors="np")
    want = np.asarray(out["pixel_values"][0]).transpose(0, 2, 3, 1)
    got = LAYOUT.arrays(picture)
    assert LAYOUT.tiles(*size) == len(got) == len(want)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert LAYOUT.count(*size) == int((out["input_ids"][0] == 258).sum())


@pytest.mark.parametrize("size", SIZES)
def test_features_stand_where_transformers_packs_them(size):
    side = TILE // PATCH
    numbers = torch.arange(LAYOUT.tiles(*size) * side**2, dtype=torch.float32).reshape(-1, side**2, 1)
    vision = SimpleNamespace(image_size=TILE, patch_size=PATCH)
    module: Any = SimpleNamespace(config=SimpleNamespace(vision_config=vision, image_grid_pinpoints=GRIDS))
    packed, lengths = transformers.LlavaNextModel.pack_image_features(
        module, [numbers], torch.tensor([size]), "default", image_newline=torch.tensor([float(NEWLINE)])
    )
    places = LAYOUT.places(*size)
    assert int(lengths[0]) == len(places)
    np.testing.assert_array_equal(packed[0][:, 0].numpy().astype(np.int32), places)


def test_a_conversation_gets_as_many_tokens_as_its_pictures_need():
    made = processor(pictures=LAYOUT, length=2000, max_tiles=8)
    shown = [pictures.encode(pictures.photo(*size)) for size in SIZES[:2]]
    encoded = made.encode(conversation("what?", "red", images=2)._replace(images=list(shown)))
    counts = [LAYOUT.count(*size) for size in SIZES[:2]]
    assert (encoded.tokens == 258).sum() == sum(counts)
    assert encoded.tiles == sum(LAYOUT.tiles(*size) for size in SIZES[:2])
    second = LAYOUT.places(*SIZES[1])
    shifted = np.where(second < 0, second, second + LAYOUT.tiles(*SIZES[0]) * 16)
    assert encoded.places[encoded.tokens == 258][counts[0] :].tolist() == shifted.tolist()


def test_grids_are_made_of_tiles():
    with pytest.raises(ConfigError, match="no multiple of the tile"):
        AnyResolution(ImageSpec.clip(28), 4, [(30, 28)])
    with pytest.raises(ConfigError, match="square"):
        AnyResolution(ImageSpec.clip((28, 14)), 4, [(28, 28)])
