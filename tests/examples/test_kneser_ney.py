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


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.lists(st.integers(0, 3), min_size=2, max_size=12), min_size=1, max_size=4
    ),  # as the lines of a log: few kinds, in any order, many times each
    st.integers(5, 150),
    st.integers(0, 1000),
    st.integers(1, 6),
)
def test_no_probability_is_zero_after_any_text(lines, count, seed, order):
    chosen = np.random.default_rng(seed).integers(0, len(lines), count)
    ids = np.array([token for i in chosen for token in lines[i]])
    model = KneserNey(ids, 6, order)
    for context in ([], [0], ids[-5:].tolist(), [4, 5], ids[:3].tolist()):
        probabilities = [model.probability(context, token) for token in range(6)]
        assert min(probabilities) > 0
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-9)


def test_a_log_of_four_kinds_of_line_is_a_text_like_any_other():
    """Its counts of 2 are many and those of 1 few: by the formula some discounts are below 0."""
    rng = np.random.default_rng(0)
    lines = ("INFO start\n", "INFO done\n", "WARN retry 1\n", "ERROR timeout\n")
    for count in (30, 100, 300):
        text = "".join(lines[i] for i in rng.integers(0, 4, count))
        alphabet = sorted({*text, "?"})
        ids = np.array([alphabet.index(character) for character in text + "?ERR"])
        assert np.isfinite(KneserNey(ids[: len(text)], len(alphabet)).bits(ids[len(text) :], ids[: len(text)]))
