import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.kneser_ney import KneserNey


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 3), min_size=6, max_size=60), st.integers(1, 4), st.lists(st.integers(0, 3), max_size=5)
)
def test_ngram_probabilities_add_up_to_one(ids, order, context):
    model = KneserNey(np.array(ids), 4, order)
    total = sum(model.probability(context, token) for token in range(4))
    assert total == pytest.approx(1.0, abs=1e-9)
    assert all(model.probability(context, token) > 0 for token in range(4))


def test_bigrams_by_hand():
    """a b a b a c: bigrams ab 2, ba 2, ac 1, so n1 = 1, n2 = 2, and the discounts are 0.2 and 2 (all of it)."""
    model = KneserNey(np.array([0, 1, 0, 1, 0, 2]), 3, order=2)
    freed = 2.0 + 0.2
    # Each token is preceded by one other, so the lower order keeps nothing of its counts: it is uniform.
    assert model.probability([0], 1) == pytest.approx((2 - 2.0 + freed / 3) / 3)
    assert model.probability([0], 2) == pytest.approx((1 - 0.2 + freed / 3) / 3)
    assert model.bits(np.array([1]), np.array([0])) == pytest.approx(-np.log2(model.probability([0], 1)))
