"""What a picture shows of text: characters of any font, as far as there is one."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from training.reporting.figure_file import plain, write_figure
from training.reporting.plots import draw_attention, draw_confusion, draw_similarities


def picture(path, text):
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.4, text)
    write_figure(path, figure)
    return imread(path)


def test_a_character_that_no_font_has_is_named(tmp_path, capsys):
    picture(tmp_path / "boxes.png", "a\U0010fffd\U000ffffd")
    line = (
        "note: boxes.png has boxes for characters that no font here can draw (\U000ffffd \U0010fffd); install a font"
    )
    assert capsys.readouterr().err.startswith(line)


def test_what_the_first_font_lacks_another_draws(tmp_path, capsys, recwarn):
    """Of the fonts that come with Matplotlib STIX has ⎰ (U+23B0), and its first one, DejaVu Sans, has not."""
    shown, other = (picture(tmp_path / f"{i}.png", text) for i, text in enumerate("\u23b0\U0010fffd"))
    assert "0.png" not in capsys.readouterr().err
    assert not recwarn
    assert shown.shape == other.shape
    assert not np.array_equal(shown, other)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" a\nb ", "a b"),
        (" ", "␣"),
        ("\n\n", "⏎⏎"),
        ("", ""),
        ("$5", r"\$5"),
        ("long " * 10, ("long " * 8)[:39] + "…"),
    ],
)
def test_labels(text, label):
    assert plain(text) == label


def test_pictures_of_matrices_say_what_their_colours_mean(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("training.reporting.plots.write_figure", lambda path, figure: figures.append(figure))
    draw_confusion(tmp_path / "a.png", np.array([[3, 1], [0, 4]]), ("no", "yes"), title="test")
    draw_similarities(tmp_path / "b.png", np.eye(2), ["a", "b"], ["c", "d"])
    draw_attention(tmp_path / "c.png", np.eye(2), ["a", "b"], ["c", "d"], title="the last layer")
    bars = [[axes.get_ylabel() for axes in figure.axes if axes.get_label() == "<colorbar>"] for figure in figures]
    assert bars == [["share of the true class"], ["similarity"], ["attention"]]
