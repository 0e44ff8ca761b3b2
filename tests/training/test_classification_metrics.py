"""Intervals and confusion matrices, against simulation and loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import confusion_matrix, proportion_interval


def test_the_interval_covers_the_truth_19_times_in_20():
    rng = np.random.default_rng(0)
    for share, trials in ((0.9, 200), (0.5, 50), (0.02, 300)):
        drawn = rng.binomial(trials, share, 4000)
        covered = [low <= share <= high for low, high in (proportion_interval(int(n), trials) for n in drawn)]
        assert 0.93 < np.mean(covered) < 0.975


@given(st.integers(1, 1000), st.data())
def test_the_interval_is_in_order(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = proportion_interval(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    for wrong in ((-1, trials), (trials + 1, trials), (0, 0)):
        with pytest.raises(ValueError, match="successes"):
            proportion_interval(*wrong)


def test_confusion():
    labels, predicted = np.random.default_rng(0).integers(0, 3, (2, 50))
    matrix = confusion_matrix(labels, predicted, 3)
    for i in range(3):
        for j in range(3):
            assert matrix[i, j] == sum(a == i and b == j for a, b in zip(labels, predicted, strict=True))
