"""A dataclass as a command line: types, groups, help, and the arguments that a resumed run takes over."""

import dataclasses
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import CheckpointError
from training.launch.command_line import read_options, words_of
from training.reporting.run import Run

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    OPTION_GROUPS: ClassVar = {"run": ("resume", "out"), "advanced": ("debug",)}
    FREE_TO_CHANGE: ClassVar = {"resume", "debug", "steps"}
    NOT_KEPT: ClassVar = {"resume", "out", "debug"}

    resume: Path | None = None
    out: Path | None = None
    debug: bool = False
    """Show where."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Base):
    OPTION_GROUPS: ClassVar = {"model": ("layers", "kind")}

    steps: int | None = None
    """How many steps,
    100 % of them."""
    rate: float = 0.5
    layers: tuple[int, ...] = ()
    """Widths."""
    size: tuple[int, int] = (3, 4)
    kind: Literal["rnn", "gru"] | None = None
    text: str = "a b"
    plain: bool = False
    tied: bool = True


def read(*words):
    return read_options(Options, "Teach.", words)


@given(
    st.builds(
        Options,
        out=st.none() | st.from_regex(r"[a-z./ é\-]+", fullmatch=True).map(Path),
        steps=st.none() | st.integers(),
        rate=st.floats(allow_nan=False),
        layers=st.lists(st.integers()).map(tuple),
        size=st.tuples(st.integers(), st.integers()),
        kind=st.sampled_from([None, "rnn", "gru"]),
        text=st.text(),
        plain=st.booleans(),
        tied=st.booleans(),
    )
)
def test_what_a_file_has_is_said_in_words_and_read_again(options):
    kept = json.loads(json.dumps(dataclasses.asdict(options), default=str))
    assert read(*words_of(Options, kept)) == dataclasses.replace(options, out=None)


def test_every_type_is_read():
    words = "--steps 7 --rate 1e-3 --layers 8 16 --size -1 2 --kind gru --text=-x --plain --no-tied --out a/b --debug"
    assert read(*words.split()) == Options(
        steps=7, rate=1e-3, layers=(8, 16), size=(-1, 2), kind="gru", text="-x", plain=True, tied=False,
        out=Path("a/b"), debug=True,
    )  # fmt: skip
    assert read() == Options()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--steps 1.5", "--steps must be a whole number; got '1.5'"),
        ("--rate fast", "--rate must be a number; got 'fast'"),
        ("--layers 1 x", "--layers must be a whole number; got 'x'"),
        ("--size 1", "--size expected 2 arguments"),
        ("--kind lstm", "--kind must be one of rnn, gru; got 'lstm'"),
        ("--plan", "there is no option --plan; perhaps --plain"),
        ("--rat 3", "there is no option --rat; perhaps --rate"),  # no abbreviations
        ("stray", "there is no option stray; --help lists all"),
    ],
)
def test_what_is_wrong_is_one_sentence(words, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read(*words.split())


def test_help_has_groups_in_order_and_hides_what_few_need(capsys):
    shown = []
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as end:
            read(flag)
        assert end.value.code in (0, None)
        shown.append(capsys.readouterr().out)
    short, long = shown
    assert "Teach. --help-all shows" in " ".join(short.split())
    assert "How many steps, 100 % of them." in " ".join(short.split())
    titles = [line[:-1] for line in long.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["task", "model", "run", "advanced"]
    assert "--debug" in long
    assert "--debug" not in short


def test_notes_end_the_long_help(capsys):
    @dataclasses.dataclass(frozen=True)
    class Noted:
        HELP_NOTES: ClassVar = {"What else": ("one " * 30, "two")}
        size: int = 3

    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            read_options(Noted, "Teach.", [flag])
    short, long = capsys.readouterr().out.split("usage:")[1:]
    assert "What else" not in short
    assert " ".join(long.split()).endswith(f"What else: - {'one ' * 30}- two")
    assert max(map(len, long.splitlines())) <= 80


@pytest.fixture
def folder(tmp_path):
    """Of a run that was started with some options."""
    started = Options(steps=5, layers=(8, 4), text="x y", tied=False, out=tmp_path / "run", debug=True)
    Run("options", started.out, arguments=started)
    return tmp_path / "run"


def test_a_run_is_resumed_with_the_options_it_has(folder):
    resumed = Options(steps=5, layers=(8, 4), text="x y", tied=False, resume=folder)
    assert read("--resume", str(folder)) == resumed
    assert read("--resume", str(folder), "--layers", "8", "4", "--steps", "9") == dataclasses.replace(
        resumed, steps=9
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--layers 8", "has --layers 8 4 and can't be resumed with --layers 8"),
        ("--kind gru", "has no --kind and can't be resumed with --kind gru"),
        ("--plain", "has no --plain and can't be resumed with --plain"),
        ("--rate 0.25", "has --rate 0.5 and can't be resumed with --rate 0.25"),
    ],
)
def test_other_options_are_refused(folder, words, said):
    with pytest.raises(ValueError, match=f"^{re.escape(f'the run in {folder} {said}')}$"):
        read("--resume", str(folder), *words.split())


def test_folders_that_are_no_runs_of_this_program(tmp_path, folder):
    with pytest.raises(CheckpointError, match="not the folder of a run"):
        read("--resume", str(tmp_path))
    marker = folder / "run.json"
    for arguments, said in (({"colour": "red"}, "there is no option --colour"), ({"steps": [1, 2]}, "no option 2")):
        marker.write_text(json.dumps({"example": "options", "arguments": arguments}))
        with pytest.raises(ValueError, match=said):
            read("--resume", str(folder))
    marker.write_text(json.dumps({"example": "options", "arguments": 3}))
    with pytest.raises(CheckpointError, match="has no arguments by name"):
        read("--resume", str(folder))
    marker.write_text(json.dumps({"example": "options"}))  # of an earlier version, which kept none
    assert read("--resume", str(folder), "--steps", "3").steps == 3


@pytest.mark.parametrize("example", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_the_help_of_every_example_fits_a_page(example, capsys, monkeypatch):
    module = importlib.import_module(f"examples.{example}")
    if not hasattr(module, "Arguments"):
        pytest.skip("takes no options")
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        read_options(module.Arguments, inspect.getdoc(module.main) or "", ["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 80
    flags = [line.split()[0] for line in lines if line.startswith("  --")]
    assert len(flags) == len(set(flags)) > 2


def test_an_example_is_read_in_minutes():
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 220} == {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    folder: Path
    """Where it lies."""
    query: tuple[str, ...] = ()


def test_a_field_without_a_default_has_no_flag(capsys):
    assert read_options(Asked, "", ["a/b"]) == Asked(folder=Path("a/b"))
    assert read_options(Asked, "", ["a/b", "--query", "c", "d"]) == Asked(folder=Path("a/b"), query=("c", "d"))
    with pytest.raises(ValueError, match="required: FOLDER"):
        read_options(Asked, "", [])
    with pytest.raises(SystemExit):
        read_options(Asked, "", ["--help"])
    shown = capsys.readouterr().out
    assert re.search(r"usage: \S+ FOLDER \[options\]", shown)
    assert re.search(r"FOLDER +Where it lies\.\n", shown)
