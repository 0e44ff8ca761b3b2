"""Numbers of a command line that cannot be: one line that names the flag, before anything is read or written."""

import sys
from typing import Any

import jax
import pytest

from examples import char_rnn, imdb_classifier, plan, sequence_tasks, shakespeare, translate
from training import Options
from training.launch.options import cli


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """`call(main, *arguments)` is the exit code and the lines of the error; there are no data, and no way to them."""
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("ZOO_DATA_DIR", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens there

    def call(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["example.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli(main)
        return end.value.code, capsys.readouterr().err.splitlines()

    return call


ROWS: Any = {char_rnn: 16, shakespeare: 12, sequence_tasks: 64, translate: 128, imdb_classifier: 128}


@pytest.mark.parametrize("example", ROWS, ids=lambda example: example.__name__)
@pytest.mark.parametrize("flag", ["--accumulate", "--devices"])
def test_what_does_not_divide_the_batch_is_refused_before_any_work(call, tmp_path, example, flag):
    code, lines = call(example.main, flag, 5, "--out", tmp_path / "run")
    assert (code, lines) == (2, [f"error: {flag} must divide the {ROWS[example]} rows of a batch; got 5"])
    assert not list(tmp_path.iterdir())


def test_the_batch_size_is_the_one_that_was_asked_for(call, tmp_path):
    """Also that of an evaluation, and the devices of all processes."""
    out = "--out", tmp_path / "run"
    cases: Any = {
        ("--accumulate", 64, "--batch-size", 32): "--accumulate must divide the 32 rows of a batch; got 64",
        (
            "--devices",
            3,
            "--batch-size",
            33,
        ): "--devices must divide the 512 rows of a batch of the evaluation; got 3",
        ("--processes", 3, "--devices", 2, "--process-id", 0, "--coordinator", "localhost:1"): (
            "--devices times --processes must divide the 64 rows of a batch; got 6"
        ),
        ("--seeds", 2, "--devices", 2): "several models at once train on one device: --devices must be 1; got 2",
    }
    for arguments, message in cases.items():
        assert call(sequence_tasks.main, *arguments, *out) == (2, [f"error: {message}"])
    message = "--accumulate must divide the 12 rows of a batch; got 5"
    code, lines = call(plan.main, "--accumulate", 5)
    assert (code, len(lines)) == (2, 1)
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


COUNTS: Any = {
    char_rnn: ("steps", "length", "save_every", "devices", "accumulate"),
    shakespeare: ("steps", "max_new_tokens"),
    sequence_tasks: ("steps", "batch_size", "length", "max_value", "max_new_tokens", "seeds"),
    translate: ("epochs", "beams"),
    imdb_classifier: ("epochs", "seeds"),
    plan: ("rows", "accumulate"),
}


@pytest.mark.parametrize(("example", "name"), [(example, name) for example in COUNTS for name in COUNTS[example]])
def test_every_count_has_a_most(example, name):
    for wrong in (2**31, 10**12, 10**30):
        with pytest.raises(ValueError, match=rf"--{name.replace('_', '-')} must be (in|at most) .*; got {wrong}$"):
            example.Arguments(**{name: wrong})


def test_an_absurd_count_is_one_line(call, tmp_path):
    for flag, value in (("--steps", 10**30), ("--batch-size", 10**12), ("--steps", "1" * 5000)):
        code, lines = call(sequence_tasks.main, flag, value, "--out", tmp_path / "run")
        assert (code, len(lines)) == (2, 1)
        assert flag in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_large_count_that_can_be_is_taken():
    assert Options(save_every=2**31 - 1).save_every == 2**31 - 1
    assert sequence_tasks.Arguments(steps=2**31 - 1).steps == 2**31 - 1


@pytest.mark.parametrize(
    "error", [MemoryError("no\nroom"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")]
)
def test_too_little_memory_is_one_line(call, error):
    def main(arguments: Options) -> None:
        """Needs too much."""
        raise error

    code, lines = call(main)
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith("error: not enough memory: ")
    assert lines[0].endswith("no room")


def test_other_errors_of_the_device_keep_their_traceback(monkeypatch):
    def main(arguments: Options) -> None:
        """Fails."""
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(sys, "argv", ["example.py"])
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: a bug"):
        cli(main)
