"""The order is a permutation per epoch, a function of seed and position, and stays within windows of blocks."""

import pickle

import numpy as np
import pytest

from jvlm.core.errors import ConfigError, UserError
from jvlm.data.mixture import Mixture, deal
from jvlm.data.pipeline import make_order
from jvlm.data.shuffle import Grouped, Sequential, Shuffled, permutation
from tests.data.shards import Memory, samples


@pytest.mark.parametrize(("size", "block", "window"), [(1, 1, 1), (100, 7, 3), (100, 1000, 16), (64, 8, 2), (17, 1, 4)])
def test_every_epoch_holds_every_sample_once(size, block, window):
    order = Shuffled(size, 3, block, window)
    for epoch in range(3):
        places = [order(epoch * size + i) for i in range(size)]
        assert sorted(p.index for p in places) == list(range(size))
        assert {p.epoch for p in places} == {epoch}


def test_epochs_and_seeds_differ_and_a_seed_repeats():
    def epoch(seed: int, number: int) -> list[int]:
        order = Shuffled(50, seed, 4, 2)
        return [order(number * 50 + i).index for i in range(50)]

    assert epoch(0, 0) == epoch(0, 0)
    assert len({tuple(epoch(s, e)) for s in range(3) for e in range(3)}) == 9


def test_epochs_visit_the_blocks_in_another_order():
    order = Shuffled(100, 0, 10, 1)
    visits = [[order(epoch * 100 + i * 10).index // 10 for i in range(10)] for epoch in range(2)]
    assert sorted(visits[0]) == sorted(visits[1])
    assert visits[0] != visits[1]


def test_the_order_never_changes():
    assert permutation(10, 1, 2).tolist() == [1, 3, 7, 9, 2, 8, 6, 4, 5, 0]
    order = Shuffled(20, 5, 3, 2)
    assert [order(i).index for i in range(8)] == [14, 5, 4, 3, 12, 13, 9, 15]


def test_positions_are_read_in_any_order_and_after_pickling():
    order = Shuffled(1000, 1, 10, 4)
    forward = [order(i) for i in range(2500)]
    again = pickle.loads(pickle.dumps(order))
    for i in np.random.default_rng(0).permutation(2500):
        assert again(int(i)) == forward[i]


def test_a_window_reads_few_blocks():
    order = Shuffled(1000, 1, 10, 4)
    for start in range(0, 1000, 40):
        blocks = {order(start + i).index // 10 for i in range(40)}
        assert len(blocks) == 4
    first = [order(i).index for i in range(40)]
    assert np.abs(np.diff(first)).mean() > 10


def test_permutations_are_uniform():
    places = np.array([permutation(6, 0, s) for s in range(3000)])
    counts = np.array([np.bincount(places[:, i], minlength=6) for i in range(6)])
    assert (np.abs(counts - 500) < 6 * np.sqrt(500)).all()


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_no_group_is_twice_in_a_batch_and_no_sample_twice_in_an_epoch(batch):
    groups = np.array([0] * 9 + [1] * 5 + [2] * 5 + [3] * 3 + [4] * 2 + [5, 6, 7, 8])
    order = Grouped(groups, batch, seed=2)
    seen = set()
    for epoch in range(4):
        places = [order(epoch * order.epoch_size + i) for i in range(order.epoch_size)]
        indices = np.array([p.index for p in places]).reshape(-1, batch)
        assert len(np.unique(indices)) == indices.size
        assert all(len(set(groups[row])) == batch for row in indices)
        seen |= set(indices.ravel().tolist())
    again = pickle.loads(pickle.dumps(order))
    assert [again(i) for i in range(30)] == [order(i) for i in range(30)]
    if batch == 1:
        assert seen == set(range(len(groups)))


def test_grouped_epochs_are_as_long_as_the_groups_allow():
    assert Grouped(np.repeat(np.arange(10), 4), 10, 0).batches == 4
    assert Grouped(np.repeat(np.arange(10), 4), 8, 0).batches == 5
    assert Grouped(np.array([0] * 100 + [1] * 3), 2, 0).batches == 3
    with pytest.raises(UserError, match="2 groups cannot fill a batch of 3"):
        Grouped(np.array([0, 0, 0, 1]), 3, 0)


def test_mixtures_keep_their_proportions_everywhere():
    pattern = deal([0.5, 0.3, 0.2])
    for share, which in ((0.5, 0), (0.3, 1), (0.2, 2)):
        drawn = np.cumsum(pattern == which)
        assert np.abs(drawn - share * np.arange(1, 1001)).max() < 1.5
    source = Mixture([Memory(samples(5)), Memory(samples(20, 5))], [3, 1])
    order = make_order(source, 0, 4)
    places = [order(i).index for i in range(2000)]
    assert sum(p < 5 for p in places) == 1500
    first = [p for p in places if p < 5]
    assert all(sorted(first[i : i + 5]) == [0, 1, 2, 3, 4] for i in range(0, 1500, 5))
    assert source[7].key == "00007"


def test_a_source_of_weight_zero_is_never_drawn():
    assert set(deal([0, 1, 2])) == {1, 2}
    with pytest.raises(ConfigError, match="as many weights"):
        Mixture([Memory(samples(2))], [1, 2])


def test_sequential_counts_epochs():
    order = Sequential(3)
    assert [order(i) for i in range(5)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_an_empty_dataset_is_said():
    with pytest.raises(UserError, match="empty"):
        Shuffled(0, 0, 1)
