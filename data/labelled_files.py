"""Texts and their classes as they stand in files: `.tsv`, `.csv`, `.jsonl`, or a folder for each class."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.text import read_text, split_lines

Columns = tuple[str, str] | tuple[int, int]
"""Where text and class stand: names of columns, which the first row gives, or numbers from 0 if it gives none."""

Row = tuple[str, str, str]
"""Where a text comes from (for errors), the text, and the name of its class."""


def read_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Each text with its class, from one of four kinds of files, all UTF-8.

    Texts are kept as they are, blank lines are no rows.

    - `.tsv`: a row in each line, with a tab between columns; quotes mean nothing.
    - `.csv`: commas between columns; a column in double quotes may have commas and line breaks in it, and `""` for a
      quote.
    - `.jsonl`: a JSON object in each line; the text is a string, and the class a string or a whole number.
    - a folder: `CLASS/*.txt`, a text in each file, in the order of their names; none that begins with a dot.

    Args:
        path: a file that ends so, or a folder.
        columns: of text and class. Names stand in the first row (of JSON in each); numbers count from 0, and the
            first row is then the first text. Of a folder none is read.

    Raises:
        ValueError: the file is of no such kind, or the columns are no columns of that kind.
        DataError: it is not what it should be; file, line and what is allowed are named.
        OSError: it can't be read.
    """
    kind = path.suffix.lower()
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if path.is_dir():
        yield from _rows_of_folder(path)
    elif kind in (".tsv", ".csv"):
        table = (_tsv if kind == ".tsv" else _csv)(path, read_text(path))
        yield from _rows_of_table(path, table, columns)
    elif kind == ".jsonl":
        yield from _rows_of_json(path, columns)
    else:
        raise ValueError(f"{path} must end with .tsv, .csv or .jsonl, or be a folder")


def _tsv(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The number of each row's line, and its columns."""
    return ((i, line.split("\t")) for i, line in enumerate(split_lines(text), start=1) if line.strip())


def _csv(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The number of each row's first line, and its columns."""
    most = csv.field_size_limit(len(text) + 1)  # of the whole process; 128 kB if nobody changed it
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, first = [], 1
    try:
        for row in reader:
            rows += [(first, row)] if any(map(str.strip, row)) or len(row) > 1 else []
            first = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {first}: {error}") from error
    finally:
        csv.field_size_limit(most)
    return iter(rows)


def _rows_of_table(path: Path, table: Iterator[tuple[int, list[str]]], columns: Columns) -> Iterator[Row]:
    width, places = None, columns
    for line, row in table:
        if width is None:
            width, names = len(row), [name.strip() for name in row]
            for column in columns:
                if isinstance(column, str) and column not in names:
                    given = ", ".join(map(_shortened, names))
                    raise DataError(
                        f"{path}, line {line}: there is no column {column!r} among {given}; say with --columns "
                        "which are text and class: their names, or numbers from 0 if the first line names none"
                    )
                if isinstance(column, int) and not 0 <= column < width:
                    raise DataError(f"{path}, line {line}: columns must be in 0..{width - 1}; got {column}")
            if isinstance(columns[0], str):
                places = tuple(map(names.index, columns))  # pyright: ignore[reportArgumentType]
                continue
        if len(row) != width:
            raise DataError(
                f"{path}, line {line}: all rows must have the {width} columns of the first; got {len(row)}"
            )
        text, name = (row[place] for place in places)  # pyright: ignore[reportCallIssue, reportArgumentType]
        yield f"{path}, line {line}", text, name.strip()


def _rows_of_json(path: Path, columns: Columns) -> Iterator[Row]:
    if not all(isinstance(column, str) for column in columns):
        raise ValueError(f"columns of a .jsonl file are names; got {columns}")
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row: Any = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON ({error.msg} at character {error.colno})") from error
        except (RecursionError, ValueError) as error:  # nested too deep, or a number of thousands of digits
            raise DataError(f"{where}: not JSON that can be read ({error})") from error
        if not isinstance(row, dict) or not set(columns) <= set(row):
            given = ", ".join(map(repr, row)) if isinstance(row, dict) else type(row).__name__
            raise DataError(f"{where}: there must be an object with {columns[0]!r} and {columns[1]!r}; got {given}")
        text, label = (row[column] for column in columns)
        if not isinstance(text, str) or isinstance(label, bool) or not isinstance(label, (str, int)):
            raise DataError(
                f"{where}: {columns[0]!r} must be a string and {columns[1]!r} a string or a whole number; got "
                f"{type(text).__name__} and {type(label).__name__}"
            )
        name = str(label).strip()
        for what, words in (("text", text), ("class", name)):
            try:
                words.encode("utf-8")
            except UnicodeEncodeError as error:
                half = ord(words[error.start])
                raise DataError(f"{where}: the {what} has half a character, U+{half:04X}") from error
        yield where, text, name


def _rows_of_folder(folder: Path) -> Iterator[Row]:
    classes = [path for path in _shown(folder) if path.is_dir()]
    if not classes:
        raise DataError(f"{folder} must hold a folder of .txt files for each class")
    for of_class in classes:
        files = [path for path in _shown(of_class) if path.suffix.lower() == ".txt"]
        if not files:
            raise DataError(f"{of_class} has no .txt files: a folder of a class must have some")
        for file in files:
            yield str(file), read_text(file), of_class.name


def _shown(folder: Path) -> list[Path]:
    """What is in a folder but for hidden files, such as those that a Mac puts beside each."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _shortened(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:40]}..."
