"""Rows hold whole conversations side by side, every one once an epoch, and resume at any row."""

import itertools
import pickle
from typing import Any

import numpy as np
import pytest

from jvlm.core.errors import UserError
from jvlm.data.conversation_batches import make_conversation_iterator
from jvlm.data.lengths import measure_lengths
from jvlm.data.multimodal import TEXT
from jvlm.data.packing import Packed, fill_rows
from jvlm.data.shuffle import Shuffled
from tests.data.dialogues import Talks, conversation, processor
from tests.data.shards import Memory, samples

RNG = np.random.default_rng(0)


def talks(count: int = 40) -> Talks:
    return Talks([conversation("q" * (i % 7 + 1), "a" * (i % 5 + 1), i % 3, f"k{i}") for i in range(count)])


def batches(source=None, **fields):
    made = processor(length=fields.pop("length", 160), max_tiles=fields.pop("max_tiles", 4))
    options: dict[str, Any] = dict(batch_size=4, seed=3, window=16) | fields
    return make_conversation_iterator(source or talks(), made, **options)


def take(iterator, count: int) -> list[dict[str, np.ndarray]]:
    found = list(itertools.islice(iterator, count))
    iterator.close()
    return found


def test_rows_are_full_and_never_too_full():
    lengths, tiles = RNG.integers(0, 200, 500), RNG.integers(0, 4, 500)
    rows = fill_rows(lengths, tiles, 256, 5)
    placed = sorted(i for row in rows for i in row)
    assert placed == np.flatnonzero(lengths).tolist()
    assert max(lengths[row].sum() for row in rows) <= 256
    assert max(tiles[row].sum() for row in rows) <= 5
    assert len(rows) < 1.12 * max(lengths.sum() / 256, tiles.sum() / 5)
    assert fill_rows(lengths, tiles, 256, 5, alone=True) == [[i] for i in placed]
    with pytest.raises(UserError, match="sample 0: 300 tokens"):
        fill_rows([300], [1], 256, 5)


def test_every_sample_stands_once_in_an_epoch_and_epochs_differ():
    lengths, tiles = RNG.integers(1, 100, 130), RNG.integers(0, 3, 130)
    rows = Packed(Shuffled(130, 5, 8), lengths, tiles, 128, 4, seed=5, window=32)
    first = [rows(p) for p in range(rows.rows(0))]
    second = [rows(p) for p in range(rows.rows(0), rows.rows(0) + rows.rows(1))]
    for epoch, made in enumerate((first, second)):
        assert {row.epoch for row in made} == {epoch}
        assert sorted(i for row in made for i in row.samples) == list(range(130))
    assert [r.samples for r in first] != [r.samples for r in second]
    copy = pickle.loads(pickle.dumps(rows))
    assert copy(rows.rows(0) + 3) == second[3]
    assert rows.utilisation() == pytest.approx(lengths.sum() / (rows.rows() * 128))


def test_a_row_is_its_samples_side_by_side():
    source = talks()
    made = processor(length=160, max_tiles=4)
    for batch in take(batches(source), 5):
        assert batch["image"].shape == (4, 4, 8, 8, 3)
        for row in range(4):
            segments = batch["segments"][row]
            used = segments > 0
            assert batch["weight"][row] == used.any()
            assert not batch["answer"][row][~used].any()
            assert (batch["tokens"][row][~used] == made.tokenizer.pad_id).all()
            tile, arrays = 0, made.pictures.arrays if made.pictures else None
            assert arrays is not None
            for number in range(1, segments.max() + 1):
                here = segments == number
                start = int(np.flatnonzero(here)[0])
                tokens = batch["tokens"][row][here]
                index = next(i for i in range(len(source)) if made.encode(source[i]).tokens.tolist() == tokens.tolist())
                encoded = made.encode(source[index])
                assert np.flatnonzero(here).tolist() == list(range(start, start + len(tokens)))
                assert batch["positions"][row][here].tolist() == list(range(len(tokens)))
                assert batch["answer"][row][here].tolist() == encoded.answer.tolist()
                shifted = np.where(encoded.places >= 0, encoded.places + 4 * tile, TEXT)
                assert batch["places"][row][here].tolist() == shifted.tolist()
                for picture in source[index].images:
                    want = arrays(picture)[0]
                    np.testing.assert_array_equal(batch["image"][row, tile], want)
                    assert batch["image_mask"][row, tile]
                    tile += 1
            assert not batch["image_mask"][row, tile:].any()
            assert not batch["image"][row, tile:].any()


def test_a_run_resumes_at_any_row_on_any_number_of_processes():
    whole = take(batches(), 6)
    later = batches(position=8)
    for want, got in zip(whole[2:], take(later, 4)):
        np.testing.assert_equal(got, want)
    parts = [take(batches(process_index=i, process_count=2), 3) for i in range(2)]
    for number in range(3):
        both = {k: np.concatenate([parts[0][number][k], parts[1][number][k]]) for k in whole[number]}
        np.testing.assert_equal(both, whole[number])


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    made = talks(40).made
    made[3] = made[3]._replace(messages=conversation("q", "", images=0).messages[:1])
    made[7] = made[7]._replace(images=["gone.png"])
    source = Talks(made)
    iterator = batches(source, cache=tmp_path)
    assert iterator.facts["samples"] == 38
    assert iterator.facts["left_out"] == 2
    assert 0.5 < iterator.facts["utilisation"] <= 1
    seen = [int(i) for b in take(iterator, 4) for i in b["index"]]
    assert not {3, 7} & set(seen)
    table = measure_lengths(source, processor(length=160, max_tiles=4), tmp_path)
    assert table.bad == {"empty answer": 1, "missing picture": 1}
    assert table.first["missing picture"] == ["sample 7: k7: gone.png: no such file"]
    assert len(list(tmp_path.glob("lengths-*.npz"))) == 1
    with pytest.raises(UserError, match=r"2 of 40 conversations cannot be used \(1 empty answer, 1 missing picture\)"):
        batches(source, min_bad=1, max_bad=0.01)


def test_a_picture_that_breaks_after_the_plan_leaves_a_blank(tmp_path):
    made = talks(8).made
    picture = tmp_path / "a.png"
    first: Any = made[4].images[0]
    picture.write_bytes(bytes(first))
    made[4] = made[4]._replace(images=[str(picture)])
    iterator = batches(Talks(made), pack=False, batch_size=8)
    picture.write_bytes(picture.read_bytes()[:60])  # the header still reads
    batch = next(iterator)
    iterator.close()
    assert iterator.counters == {"corrupt picture": 1}
    assert sorted(batch["index"].tolist()) == [-1, 0, 1, 2, 3, 5, 6, 7]
    blank = int(np.flatnonzero(batch["index"] == -1)[0])
    assert batch["weight"][blank] == 0
    assert not batch["answer"][blank].any()
    assert not batch["segments"][blank].any()


def test_captioned_pictures_are_not_taken_for_conversations():
    captioned: Any = Memory(samples(4))
    with pytest.raises(UserError, match="wrap it in the dataset 'captioned'"):
        make_conversation_iterator(captioned, processor(), batch_size=2, seed=0)
