"""Buckets follow from a few numbers, every picture goes to the nearest, and every batch comes from one of them."""

import math
import pickle
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jvlm.core.errors import ConfigError, UserError
from jvlm.data import image_ops
from jvlm.data.augment import Augment, augmented
from jvlm.data.bucket_order import Bucketed
from jvlm.data.buckets import Buckets, nearest
from jvlm.data.mixture import Mixture
from jvlm.data.pipeline import make_train_iterator
from jvlm.data.shuffle import Shuffled
from jvlm.data.sizes import HEAD, measure_sizes, size_of
from jvlm.data.sources import Sample, Subset
from jvlm.data.tar import TarSource
from tests.data import pictures
from tests.data.shards import Memory, processor, samples, write_tar

RNG = np.random.default_rng(0)
# arXiv:2307.01952, appendix I: (height, width).
SDXL = """
512 2048  512 1984  512 1920  512 1856  576 1792  576 1728  576 1664  640 1600  640 1536  704 1472
704 1408  704 1344  768 1344  768 1280  832 1216  832 1152  896 1152  896 1088  960 1088  960 1024
1024 1024  1024 960  1088 960  1088 896  1152 896  1152 832  1216 832  1280 768  1344 768  1408 704
1472 704  1536 640  1600 640  1664 576  1728 576  1792 576  1856 512  1920 512  1984 512  2048 512
"""
SMALL = Buckets(side=16, step=4, least=0.8).sizes()


def shaped(count: int, start: int = 0) -> list[Sample]:
    """Pictures of many aspect ratios."""
    rng = np.random.default_rng(start)
    made = samples(count, start)
    for i, sample in enumerate(made):
        height, width = (int(x) for x in rng.integers(12, 60, 2))
        made[i] = sample._replace(image=pictures.jpeg(height, width, seed=start + i))
    return made


def train(source: Any, **changes: Any) -> Any:
    options: dict[str, Any] = (
        dict(batch_size=4, seed=5, augment=Augment(draft=False), threads=1, buckets=SMALL) | changes
    )
    return make_train_iterator(source, processor(), **options)


def take(iterator: Any, count: int) -> list[dict[str, np.ndarray]]:
    out = [{key: np.array(value) for key, value in next(iterator).items()} for _ in range(count)]
    iterator.close()
    return out


@pytest.fixture(scope="module")
def source() -> Memory:
    return Memory(shaped(50))


@pytest.mark.parametrize(
    "fields",
    [dict(side=1024), dict(side=512), dict(side=768, step=32, ratio=2), dict(side=64, step=8, ratio=3.5, least=0.8),
     dict(side=1280, step=64)],
)  # fmt: skip
def test_sizes_are_multiples_of_the_step_within_the_area_and_the_ratio(fields: dict[str, Any]) -> None:
    made = Buckets(**fields)
    sizes, area = made.sizes(), made.side**2
    assert (made.side, made.side) in sizes and len(sizes) > 4
    for height, width in sizes:
        assert height % made.step == width % made.step == 0
        assert made.least * area < height * width <= area
        assert max(height, width) <= made.ratio * min(height, width)
        assert (width, height) in sizes
    assert len({height / width for height, width in sizes}) == len(sizes)
    # Nothing that would fit is missing but smaller sizes of the same shape.
    sides = range(made.step, 5 * made.side, made.step)
    fits = {
        (h, w)
        for h in sides
        for w in sides
        if made.least * area < h * w <= area and max(h, w) <= made.ratio * min(h, w)
    }
    assert {h / w for h, w in fits} == {h / w for h, w in sizes}


def test_sdxl_s_list_is_that_of_its_paper() -> None:
    numbers = [int(word) for word in SDXL.split()]
    wanted = list(zip(numbers[::2], numbers[1::2]))
    assert len(wanted) == 40
    assert list(Buckets.of({"variant": "sdxl"}).sizes()) == wanted
    assert set(Buckets(side=1024).sizes()) == {*wanted, (1344, 704)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [(dict(side=1000), "side = 1000 is no multiple of buckets.step = 64"), (dict(), "needs the field 'side'"),
     (dict(side=512, ratio=0.5), "ratio = 0.5"), (dict(side=512, least=1), "least = 1"),
     (dict(side=512, stp=8), "did you mean 'step'"), (dict(variant="sdx"), "did you mean 'sdxl'"),
     (dict(side=512, without=((512, 100),)), r"without has \[512, 100\]")],
)  # fmt: skip
def test_what_gives_no_list_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Buckets.of(fields)
    assert "\n" not in str(error.value)


def test_a_step_that_the_model_cannot_halve_is_refused() -> None:
    with pytest.raises(ConfigError, match="step = 32 is no multiple of 64"):
        Buckets(side=512, step=32).check(64)


def test_the_nearest_bucket_is_that_of_the_smallest_distance_in_the_logarithm() -> None:
    sizes = Buckets(side=1024).sizes()
    measured = RNG.integers(1, 4000, (500, 2)).astype(np.int32)
    measured[7] = 0
    found = nearest(sizes, measured)
    assert found[7] == -1
    for (height, width), number in zip(np.delete(measured, 7, 0), np.delete(found, 7)):
        distances = [abs(math.log(height / width) - math.log(h / w)) for h, w in sizes]
        assert distances[number] <= min(distances) + 1e-12
    exact = np.asarray(sizes, np.int32)
    np.testing.assert_array_equal(nearest(sizes, exact), np.arange(len(sizes)))


@pytest.mark.parametrize(("counts", "batch"), [((37, 12, 3), 5), ((8,), 4), ((1, 2), 4), ((300, 1, 77), 8)])
def test_every_pass_gives_each_bucket_its_share_and_carries_the_rest_over(counts: tuple[int, ...], batch: int) -> None:
    orders = [Shuffled(n, 3, 2) for n in counts]
    order = Bucketed(orders, counts, batch, seed=9)
    copy = pickle.loads(pickle.dumps(order))
    passes = 4 * batch
    total = int(order.before(passes).sum())
    assert total == sum(passes * n // batch for n in counts) == 4 * sum(counts)
    ends = [int(order.before(c).sum()) for c in range(passes + 1)]
    seen = np.zeros((len(counts), max(counts)), int)
    for number in range(total):
        bucket = order.bucket(number)
        for position in range(number * batch, (number + 1) * batch):
            seen[bucket, order(position).index] += 1
        whole = sum(end <= number + 1 for end in ends) - 1
        for k, n in enumerate(counts):
            assert seen[k, :n].sum() >= order.before(whole)[k] * batch
            assert seen[k, :n].max() - seen[k, :n].min() <= 1
    # After so many passes that nothing is left over, every sample of every bucket has been seen equally often.
    assert all((seen[k, :n] == passes).all() for k, n in enumerate(counts))
    for position in RNG.integers(0, total * batch, 30).tolist():
        assert copy(position) == order(position)


def test_a_batch_holds_one_bucket_and_each_picture_as_that_bucket_makes_it(source: Memory) -> None:
    table = measure_sizes(source, latents=False)
    iterator = train(source, sizes=True)
    used = set()
    for batch in take(iterator, 12):
        size = batch["image"].shape[1:3]
        used.add(size)
        spec = processor().image
        assert size in SMALL and spec is not None and batch["weight"].all()
        for row, index in enumerate(batch["index"].tolist()):
            assert SMALL[nearest(SMALL, table.values[index : index + 1])[0]] == size
            np.testing.assert_array_equal(
                batch["image"][row], image_ops.preprocess(source[index].image, spec.covering(size))
            )
            told = batch["sizes"][row].tolist()
            assert told[:2] == table.values[index].tolist() and told[4:] == list(size)
            scale = max(size[0] / told[0], size[1] / told[1])
            for corner, have, want in zip(told[2:4], told[:2], size):
                assert abs(corner - (have * scale - want) / 2) <= 1
                assert (corner == 0) or have * scale > want
    assert len(used) > 3
    facts = iterator.facts
    assert facts["samples"] == 50 and facts["left_out"] == 0 and facts["buckets"] >= len(used)
    assert facts["batches"] * 4 + facts["waiting"] == 50


def test_a_run_resumes_at_any_batch_on_any_number_of_processes(source: Memory) -> None:
    whole = take(train(source), 14)
    assert len({batch["image"].shape for batch in whole}) > 2
    for want, got in zip(whole[5:], take(train(source, position=20, threads=3), 9)):
        np.testing.assert_equal(got, want)
    parts = [take(train(source, position=20, process_index=i, process_count=2), 9) for i in range(2)]
    for want, one, other in zip(whole[5:], *parts):
        np.testing.assert_equal({key: np.concatenate([one[key], other[key]]) for key in want}, want)
    with pytest.raises(ConfigError, match="position 3 is within a batch of 4"):
        train(source, position=3)


@pytest.mark.parametrize("mixed", [False, True])
def test_one_bucket_gives_the_batches_of_a_run_without(source: Memory, mixed: bool) -> None:
    data = Mixture([source, Subset(source, range(7)), Memory(shaped(9, 70))], [2, 1, 0]) if mixed else source
    square = Buckets(side=16, step=16, ratio=1).sizes()
    assert square == ((16, 16),)
    plain, one = (take(train(data, buckets=b, sizes=True), 16) for b in ((), square))
    for want, got in zip(plain, one):
        np.testing.assert_equal(got, want)


def test_a_mixture_keeps_its_proportions_and_draws_nothing_of_weight_zero(source: Memory) -> None:
    mixture = Mixture([source, Memory(shaped(20, 100)), Memory(shaped(10, 200))], [1, 3, 0])
    index = np.concatenate([batch["index"] for batch in take(train(mixture, batch_size=8), 80)])
    assert abs((index < 50).mean() - 0.25) < 0.02 and (index < 70).all()


def test_what_cannot_be_read_is_left_out_and_too_much_of_it_ends_the_run(tmp_path: Any) -> None:
    made = shaped(30)
    made[3], made[8] = made[3]._replace(image=b"no"), made[8]._replace(image=pictures.bomb())
    bad = Memory(made)
    iterator = train(bad, cache=tmp_path)
    assert iterator.facts["left_out"] == 2 and iterator.facts["samples"] == 28
    assert not {3, 8} & {int(i) for batch in take(iterator, 20) for i in batch["index"]}
    assert measure_sizes(bad, latents=False, cache=tmp_path).bad == {"corrupt picture": 1, "oversized picture": 1}
    assert len(list(tmp_path.glob("sizes-*.npz"))) == 1
    with pytest.raises(UserError, match=r"2 of 30 pictures cannot be used \(1 corrupt picture, 1 oversized picture\)"):
        train(bad, min_bad=1, max_bad=0.01)
    for other in (dict(group="concept"), dict(augment=Augment(crop_scale=(0.5, 1.0)))):
        with pytest.raises(ConfigError, match="exclude each other"):
            train(Memory(shaped(6)), **other)


def test_sizes_come_from_the_beginning_of_a_file(tmp_path: Any, monkeypatch: Any) -> None:
    big = pictures.encode(pictures.photo(300, 500), "JPEG", quality=100)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = pictures.encode(pictures.photo(300, 500), "JPEG", quality=100, exif=exif.tobytes())
    long = pictures.encode(pictures.photo(300, 500), "JPEG", quality=100, comment=b"x" * 65_000, exif=exif.tobytes())
    late = pictures.encode(pictures.photo(200, 200), "PNG")
    assert all(len(data) > HEAD for data in (big, turned, long, late))
    made = [sample._replace(image=data) for sample, data in zip(samples(4), (big, turned, long, late))]
    source = TarSource(str(write_tar(tmp_path / "a.tar", made)))
    read: list[int] = []
    whole = source._reader.read

    def counted(file: int, offset: int, size: int) -> bytes:
        read.append(size)
        return whole(file, offset, size)

    monkeypatch.setattr(source._reader, "read", counted)
    assert [size_of(source, i) for i in range(4)] == [(300, 500), (500, 300), (500, 300), (200, 200)]
    assert read[:3] == [HEAD] * 3 and len(read) > 4
    assert [size_of(Mixture([Subset(source, [3, 1])]), i) for i in (0, 1)] == [(200, 200), (500, 300)]


@pytest.mark.parametrize("mirror", [False, True])
def test_what_is_told_of_a_random_corner_is_where_the_picture_was_cut(mirror: bool) -> None:
    ramp = np.zeros((16, 40, 3), np.uint8)
    ramp[..., 0] = np.arange(40) * 5
    data = pictures.encode(Image.fromarray(ramp))
    spec = processor(16).image
    assert spec is not None
    augment, corners = Augment(corner="random", flip=float(mirror)), set()
    for seed in range(20):
        pixels, sizes = augmented(data, spec.covering((16, 16)), augment, np.random.default_rng(seed))
        height, width, top, left, *now = sizes
        assert (height, width, top, *now) == (16, 40, 0, 16, 16)
        seen = np.round((pixels[0, :, 0] * spec.std[0] + spec.mean[0]) * 255 / 5).astype(int)
        columns = np.arange(40)[::-1] if mirror else np.arange(40)
        np.testing.assert_array_equal(seen, columns[left : left + 16])
        corners.add(left)
    assert len(corners) > 8
