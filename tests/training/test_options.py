"""Examples' command lines, as real processes: exit codes, one line for an error, signals, pipes."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from tests.command_lines import answers
from training import Options

ROOT = Path(__file__).parents[2]
EXAMPLE = '''
import dataclasses, sys, time
from typing import Literal
from training.launch.options import Options, cli

@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    task: Literal["sort", "copy"] = "sort"
    """What to learn."""
    fail: str = ""

class NotFinite(FloatingPointError):
    pass

def main(arguments: Arguments):
    """Teach a model to sort."""
    print(arguments.task, arguments.seed, arguments.out, arguments.smoke, flush=True)
    if arguments.fail == "show":
        print("Грегор 🙂 café", end="", flush=True)
        return
    if arguments.fail == "wait":
        time.sleep(60)
    if arguments.fail == "print":
        for _ in range(100_000):
            print("line")
    if arguments.fail:
        raise {
            "value": ValueError("batch_size must be\\n  at least 1; got \\x1b[31m0"),
            "file": FileNotFoundError(2, "No such file", "x.txt"),
            "finite": NotFinite("step 3: the loss is nan"),
            "bug": KeyError("oops"),
        }[arguments.fail]

if __name__ == "__main__":
    cli(main)
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("example") / "example.py"
    path.write_text(EXAMPLE)
    return path


@pytest.fixture(scope="module")
def example(script):
    return [sys.executable, str(script)]


def run(command, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=120)


ERRORS = [
    (["--fail", "value"], 2, "error: batch_size must be at least 1; got ?[31m0\n"),
    (["--fail", "finite"], 3, "error: step 3: the loss is nan\n"),
    (["--fail", "file"], 4, "error: x.txt: No such file\n"),
    (["--task", "shuffle"], 2, "error: --task must be one of sort, copy; got 'shuffle'\n"),
    (["--seed", "-1"], 2, "seed must be in 0..4294967295; got -1"),
    (["--unknown"], 2, "error: there is no option --unknown; --help lists all\n"),
    (["--smok"], 2, "error: there is no option --smok; perhaps --smoke\n"),
    (["--seed", "x"], 2, "error: --seed must be a whole number; got 'x'\n"),
    (["--out"], 2, "error: --out expected one argument\n"),
]


@pytest.fixture(scope="module")
def answered(script):
    """What the example answers to the words of a command line, of those that one Python was asked."""
    asked = [
        ["--task", "copy", "--seed", "3", "--out", "a/b", "--smoke"],
        ["--help"],
        ["--help-all"],
        *(arguments for arguments, _, _ in ERRORS),
        ["--fail", "value", "--debug"],
        ["--fail", "bug"],
    ]
    found = answers(script, *asked)
    return lambda *words: found[asked.index(list(words))]


def test_options_reach_main(answered):
    done = answered("--task", "copy", "--seed", "3", "--out", "a/b", "--smoke")
    assert (done.returncode, done.stdout, done.stderr) == (0, "copy 3 a/b True\n", "")


def test_help_explains(answered):
    done = answered("--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    for words in ("Teach a model to sort.", "What to learn.", "--out", "--smoke", "--help-all"):
        assert words in text
    assert "--fsdp" not in text
    assert "--fsdp" in answered("--help-all").stdout


@pytest.mark.parametrize(("arguments", "code", "line"), ERRORS)
def test_errors_are_one_line_and_a_code(answered, arguments, code, line):
    done = answered(*arguments)
    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_debug_shows_where(answered):
    done = answered("--fail", "value", "--debug")
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("error: batch_size")


def test_unforeseen_errors_keep_their_traceback(answered):
    done = answered("--fail", "bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("sent", "code", "line"),
    [(signal.SIGINT, 130, "error: interrupted\n"), (signal.SIGTERM, 143, "error: terminated\n")],
)
@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_signals_have_their_codes(example, sent, code, line):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*example, "--fail", "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    process.stdout.readline()  # main has begun
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, line)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_reader_that_goes_away_is_no_error(example):
    command = f"{' '.join(example)} --fail print | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = run(["bash", "-c"], command)
    assert done.stdout.splitlines() == ["sort 0 None False", "141"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("cp1252", b"?????? ? caf\xe9"),
        ("utf-8", "Грегор 🙂 café".encode()),
        pytest.param("ascii", b"?????? ? caf?", marks=pytest.mark.slow),
        pytest.param(
            "ascii:backslashreplace",
            "Грегор 🙂 café".encode("ascii", "backslashreplace"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_console_that_lacks_a_character_shows_another(script, encoding, shown):
    """By `cli`, and by the writer of progress for loops of one's own, which leaves the stream as it was."""
    code = (
        "import runpy, sys; from training.reporting.progress import PhaseTimer, ProgressBar\n"
        "before = sys.stdout.errors\n"
        "ProgressBar(1, PhaseTimer(), start=0, log_every=1, timing=None).write('Грегор 🙂 café')\n"
        "print(sys.stdout.errors == before)\n"
        "del sys.argv[0]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", code, str(script), "--fail", "show"]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines() == [shown, b"True", b"sort 0 None False", shown]


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_is_checked(seed):
    with pytest.raises(ValueError, match=f"seed must be in 0..4294967295; got {seed}"):
        Options(seed=seed)


def test_importing_training_loads_none_of_the_heavy_libraries():
    heavy = ["jax", "equinox", "optax", "matplotlib", "tqdm", "grain", "zoo"]
    code = f"import sys, training, training.launch.allocator; print([m for m in {heavy} if m in sys.modules])"
    assert run([sys.executable, "-c", code]).stdout == "[]\n"
    code = f"import sys; from training import fit, Run, adamw; print([m for m in {heavy[3:-1]} if m in sys.modules])"
    assert run([sys.executable, "-c", code]).stdout == "[]\n"


def test_every_public_name_is_there():
    import training

    for name in training._MODULE_OF:
        assert getattr(training, name) is not None
        assert name in dir(training)
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        training.fitt  # noqa: B018


def any_words(rng):
    """Options as people mistype them: known ones, unknown ones, values of all kinds, in any order."""
    names = [
        "--seed",
        "--out",
        "--smoke",
        "--no-smoke",
        "--resume",
        "--save-every",
        "--task",
        "--x",
        "-",
        "--",
    ]
    values = [
        "0",
        "-1",
        "1e9",
        "nan",
        "",
        " ",
        "sort",
        "copy",
        "none",
        "/",
        "..",
        "\x00",
        "日本",
        "x" * 5000,
        "--seed=3",
        "[1]",
    ]
    return [rng.choice(names if rng.random() < 0.5 else values) for _ in range(rng.randint(1, 6))]


def fuzz_command_lines(monkeypatch, capsys, count, seed):
    """Each is parsed, or refused with one line and exit code 2; `--help` alone prints more and ends with 0."""
    from training.launch import options

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Arguments(Options):
        task: Literal["sort", "copy"] = "sort"

    def main(arguments: Arguments) -> None:
        """Teach a model to sort."""

    rng, codes = random.Random(seed), set()
    before = signal.getsignal(signal.SIGTERM)
    for _ in range(count):
        monkeypatch.setattr(sys, "argv", ["example.py", *(words := any_words(rng))])
        with pytest.raises(SystemExit) as end:
            options.cli(main)
        errors = capsys.readouterr().err.splitlines()
        codes.add(end.value.code)
        assert end.value.code in (0, 2), words
        assert len(errors) == (end.value.code == 2), (words, errors)
    signal.signal(signal.SIGTERM, before)
    assert codes == {0, 2}


def test_fuzz_of_command_lines(monkeypatch, capsys):
    fuzz_command_lines(monkeypatch, capsys, 200, seed=0)


@pytest.mark.slow
def test_fuzz_of_command_lines_for_long(monkeypatch, capsys):
    fuzz_command_lines(monkeypatch, capsys, 10_000, seed=1)
