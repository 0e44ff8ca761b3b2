"""BLEU and chrF: of lists of strings alone, and of what they say rather than of how it is encoded."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import bleu_and_chrf

FORMS = ("NFC", "NFD")
words = st.lists(
    st.sampled_from(["más", "niño", "qué", "Å", "vio", "gato", "pingüino", "está"]), min_size=4, max_size=9
)


@given(st.lists(words.map(" ".join), min_size=1, max_size=4), st.sampled_from(FORMS), st.sampled_from(FORMS))
def test_a_perfect_translation_is_perfect_in_any_form(texts, written_form, reference_form):
    written = [unicodedata.normalize(written_form, text) for text in texts]
    references = [["otra frase entera", unicodedata.normalize(reference_form, text)] for text in texts]
    figures = bleu_and_chrf(written, references)
    assert figures["bleu"] == pytest.approx(100)
    assert figures["chrf"] == pytest.approx(100)


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(
    ("written", "references", "message"),
    [
        (["el gato"], ["el gato"], "references must have a list of strings for each translation; got 'el gato'"),
        (["el gato", "ve"], [["el gato"], "ve"], "references must .* got 've'"),
        (["a"], "a", "references must"),
        (["a"], [[None]], "references must"),
        ("ab", [["a"], ["b"]], "written must be a list of strings; got 'ab'"),
        ([b"a"], [["a"]], "written must"),
        ([], [], "0 translations"),
        (["a"], [["a"], ["b"]], "need as many references; got 2"),
        (["a"], [[]], "need as many"),
    ],
)
def test_what_is_no_list_of_strings_is_named(written, references, message):
    with pytest.raises(ValueError, match=message):
        bleu_and_chrf(written, references)
