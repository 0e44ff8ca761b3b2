"""How a picture gets into its file: whole or not at all, and with every character that some font here can draw."""

import io
import os
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoo.atomic_write import atomic_write

_MISSING = re.compile(r"Glyph (\d+)")


def write_figure(path: str | os.PathLike[str], figure: Any) -> None:
    """Write a Matplotlib figure as a .png file, whole.

    Where its font lacks characters, other installed fonts draw them. What none has is a box in the picture, and a
    line on the standard error says so.

    Args:
        path: the file.
        figure: a `matplotlib.figure.Figure`.
    """
    image, missing = _drawn(figure)
    if missing:
        from matplotlib.text import Text

        fonts = _fonts_with(missing)
        for text in figure.findobj(Text):
            text.set_fontfamily([*text.get_fontfamily(), *fonts])
        image, missing = _drawn(figure)
    if missing:
        few = " ".join(sorted(missing)[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        print(f"note: {Path(path).name} has boxes for characters that no font here can draw ({few}{more}); "
              "install a font for them, such as Noto Sans", file=sys.stderr, flush=True)  # fmt: skip
    atomic_write(Path(path), image)


def plain(text: str, *, longest: int = 40) -> str:
    """A text as a label on one line: cut where it is longer, blanks alone as signs, and with no mathematics in it."""
    line = " ".join(text.split()) or text.replace(" ", "␣").replace("\n", "⏎")
    line = "".join(character if character.isprintable() else "·" for character in line)
    return (line if len(line) <= longest else line[: longest - 1] + "…").replace("$", r"\$")


def _drawn(figure: Any) -> tuple[bytes, set[str]]:
    """The picture, and the characters that its fonts lack."""
    image = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(image, format="png", dpi=130)
    found = [_MISSING.match(str(warning.message)) for warning in caught]
    for warning, glyph in zip(caught, found, strict=True):
        if glyph is None:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return image.getvalue(), {chr(int(glyph[1])) for glyph in found if glyph is not None}


def _fonts_with(characters: Iterable[str]) -> list[str]:
    """The fewest installed fonts, found one after the other, that have as many of the characters as can be had."""
    from matplotlib.font_manager import fontManager, get_font

    wanted, fonts = {ord(character) for character in characters}, []
    for entry in fontManager.ttflist:
        if not wanted:
            break
        if entry.name.startswith("Last Resort"):  # a box for everything, which Matplotlib brings along
            continue
        try:
            had = wanted & set(get_font(entry.fname).get_charmap())
        except (OSError, RuntimeError):  # a list of fonts may be older than the fonts
            continue
        if had:
            fonts.append(entry.name)
            wanted -= had
    return fonts
