"""Which steps stay."""

import pytest

from jvlm.checkpoint.retention import check_rules, kept_steps
from jvlm.core.errors import ConfigError

SCORES: dict[int, dict[str, float]] = {
    10: {"r1": 0.1},
    20: {"r1": 0.9},
    30: {},
    40: {"r1": float("nan")},
    50: {"r1": 0.9},
    60: {"r1": 0.2},
}


def test_the_newest_stay():
    assert kept_steps(SCORES, keep_last=2) == {50, 60}
    assert kept_steps(SCORES, keep_last=99) == set(SCORES)
    assert kept_steps({}, keep_last=1) == set()


def test_multiples_stay():
    assert kept_steps(SCORES, keep_last=1, keep_every=20) == {20, 40, 60}


def test_the_best_stays_and_nan_is_no_candidate():
    assert kept_steps(SCORES, keep_last=1, keep_best=("r1", "max")) == {50, 60}
    assert kept_steps(SCORES, keep_last=1, keep_best=("r1", "min")) == {10, 60}
    assert kept_steps(SCORES, keep_last=1, keep_best=("absent", "max")) == {60}
    first = {10: {"r1": float("nan")}, 20: {"r1": 0.7}, 30: {"r1": 0.5}}
    assert kept_steps(first, keep_last=1, keep_best=("r1", "max")) == {20, 30}
    assert kept_steps(first, keep_last=1, keep_best=("r1", "min")) == {30}


@pytest.mark.parametrize(
    "rules", [(0, None, None), (1, 0, None), (1, None, ("r1", "best"))], ids=["last", "every", "best"]
)
def test_rules_without_sense_are_refused(rules):
    with pytest.raises(ConfigError, match="keep_"):
        check_rules(*rules)
