"""The stream does not depend on hosts, workers or where it was resumed; bad samples are counted exactly."""

import io
import tarfile

import numpy as np
import pytest

from jvlm.core.errors import ConfigError, UserError
from jvlm.data.augment import Augment
from jvlm.data.mixture import Mixture
from jvlm.data.pipeline import make_eval_iterator, make_train_iterator
from jvlm.data.sources import Sample
from jvlm.data.tar import TarSource
from tests.data import pictures
from tests.data.shards import Memory, processor, samples, write_tar

AUGMENT = Augment(crop_scale=(0.5, 1.0), flip=0.5, hue=20.0)
PROCESSOR = processor()


def take(iterator, count: int) -> list[dict[str, np.ndarray]]:
    out = [{k: np.array(v) for k, v in next(iterator).items()} for _ in range(count)]
    iterator.close()
    return out


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert set(a) == set(b)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def train(source, **changes):
    options = {"batch_size": 6, "seed": 5, "augment": AUGMENT, "label": True, "threads": 1} | changes
    return make_train_iterator(source, PROCESSOR, **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_tar(folder / "a.tar", samples(17))
    write_tar(folder / "b.tar", samples(9, 17))
    return TarSource(str(folder))


@pytest.fixture(scope="module")
def stream(source):
    return take(train(source), 12)


def test_a_batch_is_what_models_take(stream):
    batch = stream[0]
    assert {k: (v.shape, str(v.dtype)) for k, v in batch.items()} == {
        "image": ((6, 16, 16, 3), "float32"), "tokens": ((6, 10), "int32"), "weight": ((6,), "float32"),
        "index": ((6,), "int64"), "label": ((6,), "int32"),
    }  # fmt: skip
    np.testing.assert_array_equal(batch["label"], batch["index"] % 5)
    captions = {tuple(PROCESSOR.texts([f"{w} {i}"])[0]) for i in batch["index"] for w in ("caption", "another")}
    assert {tuple(row) for row in batch["tokens"]} <= captions


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_the_stream(source, stream, threads):
    for a, b in zip(take(train(source, threads=threads), 12), stream):
        assert_equal(a, b)


def test_worker_processes_do_not_change_the_stream(source, stream):
    for a, b in zip(take(train(source, workers=2), 12), stream):
        assert_equal(a, b)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_processes_share_each_batch_in_order(source, stream, count):
    parts = [take(train(source, process_index=i, process_count=count), 12) for i in range(count)]
    for step in range(12):
        joined = {k: np.concatenate([part[step][k] for part in parts]) for k in stream[step]}
        assert_equal(joined, stream[step])


@pytest.mark.parametrize("step", [1, 4, 5, 11])
def test_a_resumed_stream_continues_the_first(source, stream, step):
    iterator = train(source)
    for _ in range(step):
        next(iterator)
    assert iterator.position == 6 * step
    iterator.close()
    resumed = train(source, position=6 * step)
    for a, b in zip(take(resumed, 12 - step), stream[step:]):
        assert_equal(a, b)
    assert resumed.position == 72


def test_another_batch_size_keeps_the_order_of_samples(source, stream):
    order = np.concatenate([b["index"] for b in stream])
    again = np.concatenate([b["index"] for b in take(train(source, batch_size=9, position=3), 7)])
    np.testing.assert_array_equal(again, order[3:66])


def test_each_epoch_holds_each_sample_once_and_draws_anew(source, stream):
    order = np.concatenate([b["index"] for b in stream])
    assert sorted(order[:26]) == sorted(order[26:52]) == list(range(26))
    image = np.concatenate([b["image"] for b in stream])
    first, second = (image[i][np.argsort(order[i])] for i in (slice(0, 26), slice(26, 52)))
    assert (np.abs(first - second).reshape(26, -1).max(1) > 0).all()


def test_grouped_batches_hold_each_concept_once_and_resume(source):
    batches = take(train(source, group="concept", batch_size=7), 9)
    for batch in batches:
        assert len(set(batch["index"] % 7)) == 7
    resumed = take(train(source, group="concept", batch_size=7, position=35), 4)
    for a, b in zip(resumed, batches[5:]):
        assert_equal(a, b)
    halves = [
        take(train(source, group=np.arange(26) % 7, batch_size=6, process_index=i, process_count=2), 3) for i in (0, 1)
    ]
    for a, b in zip(*halves):
        assert not set(a["index"] % 7) & set(b["index"] % 7)


def test_mixtures_stream_and_resume(source):
    mixture = Mixture([source, Memory(samples(5, 100))], [1, 1])
    batches = take(train(mixture, batch_size=4), 8)
    assert all((b["index"] >= 26).sum() == 2 for b in batches)
    for a, b in zip(take(train(mixture, batch_size=4, position=12), 5), batches[3:]):
        assert_equal(a, b)


def test_evaluation_is_exact_in_order_and_padded_with_weight_zero(source):
    for count in (1, 2):
        parts = [
            take(make_eval_iterator(source, PROCESSOR, batch_size=8, process_index=i, process_count=count), 4)
            for i in range(count)
        ]
        index = np.concatenate([np.concatenate([p[s]["index"] for p in parts]) for s in range(4)])
        weight = np.concatenate([np.concatenate([p[s]["weight"] for p in parts]) for s in range(4)])
        np.testing.assert_array_equal(index, [*range(26), *[-1] * 6])
        np.testing.assert_array_equal(weight, [1] * 26 + [0] * 6)
    image = take(make_eval_iterator(source, PROCESSOR, batch_size=26), 1)[0]["image"]
    np.testing.assert_array_equal(image, PROCESSOR.images([source[i].image for i in range(26)]))


def test_evaluation_gives_several_captions(source):
    batch = take(make_eval_iterator(source, PROCESSOR, batch_size=4, captions=3), 1)[0]
    assert batch["tokens"].shape == (4, 3, 10)
    np.testing.assert_array_equal(batch["caption_weight"], [[1, 1, 0]] * 4)
    np.testing.assert_array_equal(batch["tokens"][2, 1], PROCESSOR.texts(["another 2"])[0])


def damaged(folder, count: int = 400) -> TarSource:
    """One percent corrupt pictures, one empty caption, one bomb, one picture without end, one truncated tar."""
    made = samples(count)
    for i in range(0, count, 100):
        made[i] = made[i]._replace(image=b"\xff\xd8 not a picture")
    made[5] = made[5]._replace(captions=["", "  "])
    made[6] = made[6]._replace(image=pictures.bomb())
    made[7] = made[7]._replace(image=made[7].image[:500])
    write_tar(folder / "a.tar", made[: count // 2])
    path = write_tar(folder / "b.tar", made[count // 2 :])
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-2]
    path.write_bytes(path.read_bytes()[: last.offset_data + 50])
    return TarSource(str(folder))


CAUSES = {"corrupt picture": 5, "empty caption": 1, "oversized picture": 1, "truncated tar": 1}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
def test_bad_samples_are_placeholders_counted_exactly(tmp_path, decoder):
    source = damaged(tmp_path)
    assert len(source) == 400
    iterator = train(source, batch_size=40, augment=Augment(decoder=decoder), label=False)
    batches = [next(iterator) for _ in range(10)]
    iterator.close()
    assert iterator.counters == CAUSES
    bad = np.concatenate([b["index"][b["weight"] == 0] for b in batches])
    assert sorted(bad) == [0, 5, 6, 7, 100, 200, 300, 399]
    blank = PROCESSOR.texts([""])[0]
    for batch in batches:
        for row in np.flatnonzero(batch["weight"] == 0):
            assert not batch["image"][row].any()
            np.testing.assert_array_equal(batch["tokens"][row], blank)
    resumed = train(source, batch_size=40, position=400, counters=iterator.counters, label=False)
    for _ in range(10):
        next(resumed)
    resumed.close()
    assert resumed.counters == {k: 2 * v for k, v in CAUSES.items()}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_counts_of_processes_add_up_and_workers_agree(tmp_path):
    source = damaged(tmp_path)
    total: dict[str, int] = {}
    for i in range(2):
        iterator = train(source, batch_size=40, label=False, process_index=i, process_count=2)
        take(iterator, 10)
        for cause, n in iterator.counters.items():
            total[cause] = total.get(cause, 0) + n
    assert total == CAUSES
    iterator = make_eval_iterator(source, PROCESSOR, batch_size=40, workers=1)
    take(iterator, 10)
    assert iterator.counters == CAUSES


def test_above_the_threshold_one_line_names_the_first_offenders():
    made = [Sample(b"no", ["a"], None, f"key{i}") if i % 4 == 0 else samples(1)[0] for i in range(40)]
    iterator = make_eval_iterator(Memory(made), PROCESSOR, batch_size=10, max_bad=0.2, min_bad=8)
    for _ in range(2):
        next(iterator)  # 6 of 20 are over the fraction, but fewer than min_bad
    with pytest.raises(UserError) as error:
        next(iterator)
    text = str(error.value)
    assert "8 of 30 samples are bad (8 corrupt picture), more than 20.0%" in text
    assert "key0: " in text
    assert "key4: " in text
    assert "key12" not in text
    assert "\n" not in text
    iterator.close()
    quiet = make_eval_iterator(Memory(made), PROCESSOR, batch_size=10, max_bad=0.25, min_bad=1)
    next(make_eval_iterator(Memory(made), PROCESSOR, batch_size=40, max_bad=0.25, min_bad=1))
    with pytest.raises(UserError, match="3 of 10"):
        next(quiet)


class Broken(Memory):
    def __getitem__(self, index: int) -> Sample:
        if index == 1:
            raise OSError("disk on fire")
        if index == 2:
            raise RuntimeError("a bug")
        return super().__getitem__(index)


def test_no_exception_ends_the_stream():
    iterator = make_eval_iterator(Broken(samples(6)), PROCESSOR, batch_size=3)
    batches = take(iterator, 2)
    assert iterator.counters == {"read error": 1, "unexpected error": 1}
    np.testing.assert_array_equal(batches[0]["weight"], [1, 0, 0])
    np.testing.assert_array_equal(batches[1]["weight"], [1, 1, 1])


def test_a_tar_that_shrinks_while_it_is_read_costs_samples_not_the_run(tmp_path):
    path = write_tar(tmp_path / "a.tar", samples(6))
    source = TarSource(str(path))
    path.write_bytes(path.read_bytes()[:4000])
    iterator = make_eval_iterator(source, PROCESSOR, batch_size=6)
    batch = next(iterator)
    iterator.close()
    assert 0 < batch["weight"].sum() < 6
    assert sum(iterator.counters.values()) == 6 - batch["weight"].sum()


def test_prefetch_is_bounded_in_bytes():
    seen: list[int] = []

    class Counting(Memory):
        def __getitem__(self, index: int) -> Sample:
            seen.append(index)
            return super().__getitem__(index)

    one = 4 * 16 * 16 * 3 * 4 + 4 * 10 * 4 + 4 * 12
    iterator = make_eval_iterator(Counting(samples(80)), PROCESSOR, batch_size=4, threads=4, prefetch_bytes=2 * one)
    next(iterator)
    import time

    time.sleep(0.3)
    iterator.close()
    assert len(seen) <= 4 * 4  # one handed out, two ahead, one in the making


def test_a_batch_that_does_not_divide_is_refused(source):
    with pytest.raises(ConfigError, match="6 does not divide among 4"):
        train(source, process_count=4)
    with pytest.raises(UserError, match=r"no 'style' to group by, only \['captions', 'concept', 'label'\]"):
        train(source, group="style")
    with pytest.raises(ConfigError, match="3 group numbers for 26 samples"):
        train(source, group=np.arange(3))


def test_picture_only_and_text_only_models_get_their_part(source):
    from jvlm.data.processor import Processor

    pictures_only = next(make_eval_iterator(source, Processor(image=PROCESSOR.image), batch_size=4))
    assert set(pictures_only) == {"image", "weight", "index"}
    text_only = next(make_eval_iterator(source, Processor(None, PROCESSOR.text, PROCESSOR.tokenizer), batch_size=4))
    assert set(text_only) == {"tokens", "weight", "index"}


def test_a_zero_byte_member_is_a_corrupt_picture(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (("1.jpg", b""), ("1.txt", b"a"), ("2.jpg", pictures.jpeg()), ("2.txt", b"b")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    iterator = make_eval_iterator(TarSource(str(tmp_path / "a.tar")), PROCESSOR, batch_size=2)
    np.testing.assert_array_equal(take(iterator, 1)[0]["weight"], [0, 1])
    assert iterator.counters == {"corrupt picture": 1}
