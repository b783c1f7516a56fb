"""The demo's shards hold what they promise. Read with `tarfile`, so that the library's reader is not its own judge."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jvlm.core.errors import ConfigError
from jvlm.data import emoji

FOLDER = Path(emoji.__file__).parent
TRAIN_STYLES = {"twemoji", "noto", "noto-v1", "fluent-emoji-flat"}
STYLES = TRAIN_STYLES | {"emojione"}


def read(split: str) -> list[tuple[dict, bytes]]:
    samples = []
    for path in emoji.shards(split):
        with tarfile.open(path) as shard:
            files = {m.name: f.read() for m in shard if (f := shard.extractfile(m))}
        for name in (n for n in files if n.endswith(".json")):
            samples.append((json.loads(files[name]), files[name.removesuffix("json") + "webp"]))
    return samples


@pytest.fixture(scope="module")
def splits() -> dict[str, list[tuple[dict, bytes]]]:
    return {split: read(split) for split in emoji.SHARDS}


def test_counts_and_styles(splits):
    shown = {split: Counter(about["style"] for about, _ in rows) for split, rows in splits.items()}
    trained = len(emoji.concepts("train"))
    assert trained >= 450
    assert shown["train"] == dict.fromkeys(TRAIN_STYLES, trained)
    assert shown["style"] == {"emojione": 400}
    assert shown["validation"] == {"emojione": trained - 400}
    assert shown["concepts"] == dict.fromkeys(STYLES, 50)


def test_manifest_names_what_the_shards_hold(splits):
    for split, rows in splits.items():
        assert sorted({about["concept"] for about, _ in rows}) == emoji.concepts(split)


def test_held_out_is_never_trained(splits):
    style, validation, unseen = (set(emoji.concepts(s)) for s in ("style", "validation", "concepts"))
    assert not style & validation
    assert style | validation == set(emoji.concepts("train"))
    assert not unseen & (style | validation)
    assert "emojione" not in {about["style"] for about, _ in splits["train"]}
    trained = {data for _, data in splits["train"]}
    for split in ("style", "validation", "concepts"):
        assert not trained & {data for _, data in splits[split]}, split


def test_a_concept_is_one_label_and_one_caption_everywhere(splits):
    rows = [about for rows in splits.values() for about, _ in rows]
    assert len({about["key"] for about in rows}) == len(rows)
    pairs = {(about["concept"], about["label"], about["caption"], tuple(about["tags"])) for about in rows}
    assert len(pairs) == len({p[0] for p in pairs}) == len({p[1] for p in pairs}) == len({p[2] for p in pairs})
    assert all(p[2] and p[2].isascii() and all(t and t.isascii() for t in p[3]) for p in pairs)


def test_every_picture_decodes(splits):
    for rows in splits.values():
        for about, data in rows:
            with Image.open(io.BytesIO(data)) as picture:
                pixels = picture.convert("RGB")
            assert pixels.size == (48, 48), about["key"]
            assert np.ptp(np.asarray(pixels), axis=(0, 1)).max() > 16, about["key"]


def test_the_folder_is_at_most_12_megabytes():
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) <= 12_000_000


def test_every_art_set_has_its_licence_and_source():
    rows = [line for line in (FOLDER / "LICENSES.md").read_text().splitlines() if line.startswith("| `")]
    named = {row.split("`")[1]: row for row in rows}
    assert set(named) == STYLES
    for row in named.values():
        assert "https://" in row
        assert any(licence in row for licence in ("CC-BY-4.0", "Apache-2.0", "MIT"))
    assert "Miles Johnson" in (FOLDER / "LICENSES.md").read_text()


@pytest.mark.parametrize("read_split", [emoji.shards, emoji.concepts])
def test_an_unknown_split_names_the_nearest(read_split):
    with pytest.raises(ConfigError, match="'validation'"):
        read_split("validations")
