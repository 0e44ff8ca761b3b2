"""Questions of a file, a line each: which are asked, and what stands for those that a model can't read."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from examples.with_bar import ask_lines, translated_lines


@dataclasses.dataclass
class Capitals:
    """A translator of at most 9 words that knows texts without marks."""

    prefix: str = ""
    model: Any = dataclasses.field(default_factory=lambda: SimpleNamespace(max_length=9))
    source: Any = dataclasses.field(default_factory=lambda: SimpleNamespace(encode=str.split))

    def normalised(self, text):
        return text.replace("?", "")

    def __call__(self, texts, *, progress, num_beams):
        assert all(1 <= len(self.normalised(text).split()) <= 9 for text in texts)
        return [f"{text.upper()}\nx{num_beams}" for text in texts]


def test_lines_that_can_not_be_read_are_told_and_stay_empty(capsys):
    lines, translator = ["one", "", "??", "two", "so " * 10], Capitals()
    found = translated_lines(translator, lines, "lines.txt", num_beams=2)
    assert found == ["ONE x2", "", "", "TWO x2", ""]
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: lines.txt, line 3: a text must have 1 to 9 tokens, got 0;")
    assert warning.endswith("as 1 more")
    assert translated_lines(translator, ["??"], "lines.txt") == [""]


def test_one_text_alone_is_asked_about_and_nothing_is_an_error():
    with pytest.raises(AssertionError):
        translated_lines(Capitals(), ["??"], "??", num_beams=1)
    with pytest.raises(ValueError, match=r"lines\.txt has no text: there is nothing to classify"):
        ask_lines(Capitals(), ["", " "], "lines.txt", "classify", encode=list)
