"""Bad input at the command line: one line that says what is wrong, the right exit code, and nothing lost.

Each case runs an example's whole command line in this process. What needs a process of its own (signals, kills,
full disks, servers) is in tests/training and tests/data.
"""

import gzip
import hashlib
import json
import pickle
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

import zoo
from examples import char_rnn, imdb_classifier, plan, sequence_tasks, shakespeare, translate
from training.launch.options import cli

TEXT = "Als Gregor Samsa eines Morgens aus unruhigen Traeumen erwachte.\n" * 60


@pytest.fixture(autouse=True, scope="module")
def no_pictures():
    """They took as long as all the rest of a run; the examples' own tests look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.reporting.run.draw_curves", lambda history, path, title: None)
        patch.setattr(char_rnn, "draw_next_characters", lambda path, model, tokenizer, line: None)
        yield


@pytest.fixture
def call(monkeypatch, capsys):
    """`call(example, *arguments)` is the exit code and the lines of the error."""

    def call(example, *arguments):
        monkeypatch.setattr(sys, "argv", ["example.py", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli(example.main)
        return end.value.code, capsys.readouterr().err.splitlines()

    return call


@pytest.fixture(scope="module")
def trained(no_pictures, tmp_path_factory):
    """A finished run of the character RNN with a checkpoint at every step."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    arguments = {"text": str(folder / "text.txt"), "preset": "kafka", "cell": "rnn", "smoke": True, "save_every": 1}
    char_rnn.main(char_rnn.Arguments(out=folder / "run", **arguments))
    return folder


@pytest.fixture(scope="module")
def lm():
    """A language model of a context of 16."""
    config = zoo.TransformerLMConfig(
        vocab_size=11, embed_size=8, num_layers=1, num_heads=2, mlp_size=8, max_length=16
    )
    return eqx.filter_jit(zoo.TransformerLM)(config, key=jax.random.key(0))


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(trained / "run", tmp_path / "run")


def resume(trained, run):
    return (char_rnn, "--text", trained / "text.txt", "--preset", "kafka", "--cell", "rnn", "--smoke",
            "--save-every", 1, "--resume", run)  # fmt: skip


def newest(run):
    return max((run / "checkpoints").glob("step_*"))


def fingerprint(folder):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(answer, code, *parts):
    """One line with all these parts."""
    given, lines = answer
    errors = [line for line in lines if line.startswith("error: ")]
    assert given == code, lines
    assert len(errors) == 1, lines
    assert not any("Traceback" in line for line in lines)
    for part in map(str, parts):
        assert part in errors[0], errors[0]


@pytest.mark.parametrize("damage", ["cut", pytest.param("flipped", marks=pytest.mark.slow)])
def test_1_2_a_damaged_checkpoint_is_named_passed_over_and_kept(call, trained, run, damage):
    broken = newest(run) / "state.safetensors"
    content = broken.read_bytes()
    middle = len(content) // 2
    bad = (
        content[:middle]
        if damage == "cut"
        else content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    )
    broken.write_bytes(bad)
    code, lines = call(*resume(trained, run))
    assert code == 0, lines
    assert any(line.startswith("warning: ") and str(broken) in line for line in lines)
    spared = [path for path in (run / "checkpoints").rglob("state.safetensors") if path.read_bytes() == bad]
    assert spared  # put aside perhaps, but not deleted
    # From the step before, the very same end was reached.
    for file in ("metrics.jsonl", "samples.txt", "model.safetensors"):
        assert (run / file).read_bytes() == (trained / "run" / file).read_bytes()


def test_1_3_5_a_model_file_that_is_damaged_or_of_another_model(call, trained, lm, tmp_path):
    model = trained / "run/model.safetensors"
    half = tmp_path / "half.safetensors"
    half.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    refused(call(char_rnn, "--write", "Als", "--checkpoint", half), 5, half)
    other = tmp_path / "other.safetensors"
    zoo.save(other, lm)
    refused(call(char_rnn, "--write", "Als", "--checkpoint", other), 5, other, "holds a model without a tokenizer")


def test_3_a_checkpoint_of_another_model(call, trained, run):
    answer = call(char_rnn, "--text", trained / "text.txt", "--preset", "kafka", "--cell", "gru", "--smoke",
                  "--save-every", 1, "--resume", run)  # fmt: skip
    assert answer[0] in (2, 5)
    refused(answer, answer[0], "cell")


@pytest.mark.parametrize("kind", ["nothing", "file", "empty folder", "residue"])
def test_6_nothing_to_go_on_from(call, trained, tmp_path, kind):
    where = tmp_path / "run"
    if kind == "file":
        where.write_text("x")
    elif kind != "nothing":
        (where / "checkpoints/.step_00000001.x.tmp").mkdir(parents=True)
        if kind == "empty folder":
            shutil.rmtree(where / "checkpoints")
    before = sorted(tmp_path.rglob("*"))
    code, lines = call(*resume(trained, where))
    refused((code, lines), code, where)
    assert code in (2, 5)
    assert sorted(tmp_path.rglob("*")) == before


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


@pytest.mark.parametrize("packed", [False, True])
def test_7_pickles_are_not_loaded(call, trained, run, tmp_path, monkeypatch, packed):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"weights": Bomb()})
    file = tmp_path / ("model.pkl.gz" if packed else "model.pkl")
    file.write_bytes(gzip.compress(content) if packed else content)
    refused(call(char_rnn, "--write", "Als", "--checkpoint", file), 5, file, "pickle files are not loaded")
    refused(call(sequence_tasks, "--checkpoint", file, "--prompt", "0 1 0"), 5, file)
    (newest(run) / "state.safetensors").write_bytes(content)
    assert call(*resume(trained, run))[0] == 0
    assert not (tmp_path / "exploded").exists()


HUGE = json.dumps({"w": {"dtype": "F32", "shape": [10**11], "data_offsets": [0, 4 * 10**11]}}).encode()
CLAIMS = {
    "header": struct.pack("<Q", 2**63) + b"{}",
    "array": struct.pack("<Q", len(HUGE)) + HUGE,
    "npy": b"\x93NUMPY\x01\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000,)}",
    "empty": b"",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_8_files_that_claim_more_than_they_have(call, tmp_path, claim):
    file = tmp_path / "model.safetensors"
    file.write_bytes(CLAIMS[claim])
    refused(call(char_rnn, "--write", "Als", "--checkpoint", file), 5, file)


def test_10_a_folder_of_somebody_else(call, trained, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("precious")
    before = fingerprint(tmp_path)
    answer = call(char_rnn, "--text", trained / "text.txt", "--smoke", "--out", tmp_path / "mine")
    refused(answer, 2, tmp_path / "mine", "other files")
    assert fingerprint(tmp_path) == before


def test_11_a_run_is_replaced_when_the_new_one_begins(call, trained, run, tmp_path):
    """Not before all is read and checked, nor by one that begins with its model; without leave, nothing is read."""
    before = fingerprint(run)
    (tmp_path / "short.txt").write_text("ab" * 20)
    text = ("--text", trained / "text.txt", "--preset", "kafka", "--smoke", "--out")
    for words, part in (
        ((*text, run, "--overwrite", "--freeze", "typo"), "--freeze typo is the name of no weight"),
        ((*text, run, "--overwrite", "--init-from", run), "--overwrite would delete"),
        (("--text", tmp_path / "missing.txt", "--out", run), "has a run in it"),
        ((*text, tmp_path / "new", "--freeze", "typo"), "--freeze typo"),
    ):
        refused(call(char_rnn, *words), 2, part)
        (run / "run.lock").unlink(missing_ok=True)
        assert fingerprint(run) == before
    short = ("--text", tmp_path / "short.txt", "--out", tmp_path / "new")
    refused(call(shakespeare, *short), 2, "0 batches")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        (char_rnn, {"checkpoint": "a"}, "--checkpoint needs --write"),
        (char_rnn, {"length": 3}, "--length needs --write"),
        (char_rnn, {"preset": "abcd", "text": "a"}, "either --preset abcd, .*, or --text"),
        (shakespeare, {"top_p": 0.5}, "--top-p needs --write"),
        (shakespeare, {"init_from": "a", "tokenizer": "bytes"}, "either --tokenizer or --init-from"),
        (translate, {"beams": 2}, "--beams needs --translate"),
        (translate, {"init_from": "a", "tokenizer": "compacted"}, "either --tokenizer or --init-from"),
        (imdb_classifier, {"checkpoint": "a"}, "--checkpoint needs --predict or --predict-file or --show"),
        (imdb_classifier, {"init_from": "a", "model": "transformer"}, "either --model or --init-from"),
        (imdb_classifier, {"show": (1,), "predict": "a"}, "--predict, --predict-file or --show, not both"),
        (imdb_classifier, {"columns": ("0", "0")}, "--columns must be different, .* got 0 0"),
    ],
)
def test_what_would_be_passed_over_is_refused(example, options, message):
    paths = ("checkpoint", "init_from")
    with pytest.raises(ValueError, match=message):
        example.Arguments(**{name: Path(value) if name in paths else value for name, value in options.items()})


@pytest.mark.parametrize("few", [(3, 2), (7, 4), (100, 8), (500, 32), (1_023, 64), (1_024, 128), (None, 128)])
def test_few_rows_of_ones_own_have_small_batches(few):
    rows, size = few
    assert char_rnn.Arguments().batch_for(128, rows) == size
    on_devices = char_rnn.Arguments(devices=4, accumulate=2).batch_for(128, rows)
    assert on_devices == max(size, 4)


@pytest.mark.parametrize(("option", "value"), [("--seed", 1), ("--steps", 7), ("--cell", "lstm")])
def test_12_another_run_is_not_gone_on_with(call, trained, run, option, value):
    command = [str(part) for part in resume(trained, run)[1:]]
    if option in command:
        command[command.index(option) + 1] = str(value)
    else:
        command += [option, str(value)]
    before = fingerprint(run)
    answer = call(char_rnn, *command)
    refused(answer, 2, run, "steps was 10 and is 7" if option == "--steps" else f"resumed with {option} {value}")
    assert fingerprint(run) == before


def test_16_no_network_and_nothing_in_the_cache(call, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("ZOO_DATA_DIR", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody listens there
    answer = call(shakespeare, "--smoke", "--out", tmp_path / "run")
    refused(answer, 4, "tinyshakespeare", "https://", "sha256", "ZOO_DATA_DIR")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"caf\xe9\nmore", 4, "line 1: byte 0xe9"),
        (b"", 4, "is empty"),
        (b"\xef\xbb\xbf", 4, "byte order mark"),
        (b"a", 2, "no two parts"),
    ],
)
def test_20_texts_that_are_none(call, tmp_path, content, code, message):
    (tmp_path / "text.txt").write_bytes(content)
    answer = call(char_rnn, "--text", tmp_path / "text.txt", "--smoke", "--out", tmp_path / "run")
    refused(answer, code, message)
    assert not (tmp_path / "run").exists()
    refused(call(char_rnn, "--text", tmp_path / "missing.txt", "--smoke"), 4, "missing.txt", "metamorphosis")


@pytest.mark.slow  # how such texts are read is in tests/data/test_text.py
@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + b"a\x00\r\n" * 400, b"x" * 6_000 + b"y"])
def test_20_texts_that_are_odd_are_taken_as_they_are(call, tmp_path, content):
    (tmp_path / "text.txt").write_bytes(content)
    code, lines = call(char_rnn, "--text", tmp_path / "text.txt", "--preset", "kafka", "--smoke", "--steps", 1,
                       "--out", tmp_path / "run")  # fmt: skip
    assert code == 0, lines


@pytest.mark.usefixtures("as_users")
def test_21_ids_outside_the_vocabulary(lm):
    for prompt, part in (
        ([3, 11], "11"),
        ([-1], "-1"),
        ([2**40], str(2**40)),
        ([1.5], "whole numbers"),
        (np.ones(2), "whole numbers"),
    ):
        with pytest.raises((ValueError, TypeError), match=part):
            zoo.generate(lm.decoder(), prompt, max_new_tokens=2)


def test_22_23_24_writing(call, trained, lm, capsys):
    write = (char_rnn, "--checkpoint", trained / "run/model.safetensors", "--write")
    refused(call(*write, ""), 2, "at least one token")
    refused(call(*write, "Als", "--length", -1), 2, "--length", "-1")
    assert call(*write, "Als", "--length", 0)[0] == 0
    for wrong in ("-0.5", "nan", "inf"):
        refused(call(*write, "Als", "--temperature", wrong), 2, "temperature", wrong.removeprefix("-"))
    monkey = [call(*write, "Als", "--length", 20, "--temperature", t)[0] for t in (0, 1e-45)]
    assert monkey == [0, 0]
    with pytest.raises(ValueError, match=r"(?s)16"):  # prompt, capacity and context are named
        zoo.generate(lm.decoder(), [1] * 10, max_new_tokens=7)
    for top_p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"probability|top_p|p must"):
            zoo.generate(lm.decoder(), [1], max_new_tokens=2, sampler=zoo.TopP(top_p), key=jax.random.key(0))


def test_25_marks_are_text_and_too_little_data_is_an_error(call, tmp_path):
    from zoo.text import BytePairTokenizer

    tokenizer = BytePairTokenizer(r"\s?\S+|\s+", [bytes([i]) for i in range(256)])
    assert max(tokenizer.encode("<|endoftext|>")) < 256
    (tmp_path / "text.txt").write_text("ab" * 20)
    answer = call(shakespeare, "--text", tmp_path / "text.txt", "--smoke", "--steps", 1, "--out", tmp_path / "run")
    refused(answer, 2, "0 batches")


@pytest.mark.parametrize("example", [char_rnn, sequence_tasks, shakespeare], ids=lambda e: e.__name__)
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--seed", "-1"], "seed"),
        (["--seed", "x"], "seed"),
        (["--nonsense"], "nonsense"),
        (["--save-every", "0"], "save"),
    ],
)
def test_usage_is_checked_before_any_work(call, example, arguments, part):
    refused(call(example, *arguments), 2, part)


NUMBERS: Any = {
    char_rnn: {"steps": 1, "length": 0, "temperature": 0.0, "save_every": 1, "devices": 1, "accumulate": 1},
    shakespeare: {"steps": 1, "max_new_tokens": 0, "temperature": 0.0, "top_p": 0.0},
    sequence_tasks: {"steps": 1, "batch_size": 1, "length": 1, "max_value": 2, "max_new_tokens": 0, "seeds": 1},
    translate: {"epochs": 1, "beams": 1, "seed": 0},
    imdb_classifier: {"epochs": 1, "seeds": 1},
    plan: {"rows": 1, "accumulate": 1},
}


NEEDED: Any = {
    "length": {char_rnn: {"write": "a"}},
    "temperature": {char_rnn: {"write": "a"}, shakespeare: {"write": "a"}},
    "top_p": {shakespeare: {"write": "a"}},
    "max_new_tokens": {shakespeare: {"write": "a"}},
    "beams": {translate: {"translate": "a"}},
}


@pytest.mark.parametrize(("example", "name"), [(example, name) for example in NUMBERS for name in NUMBERS[example]])
def test_every_number_has_a_least(example, name):
    """It is taken, and what is less is refused in the words of the command line."""
    least = NUMBERS[example][name]
    needed = NEEDED.get(name, {}).get(example, {})
    assert getattr(example.Arguments(**{name: least}, **needed), name) == least
    for wrong in (least - 1, -3, *([float("nan"), float("inf"), -1e-9] if isinstance(least, float) else [])):
        with pytest.raises(ValueError, match=rf"--{name.replace('_', '-')} must be .*; got {wrong}$"):
            example.Arguments(**{name: wrong})


def test_numbers_of_other_kinds():
    cases: Any = (
        ({"learning_rate": 0.0}, "--learning-rate must be more than 0; got 0.0"),
        ({"learning_rates": (1e-3, float("nan"))}, "--learning-rates must be finite and more than 0; got nan"),
    )
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            sequence_tasks.Arguments(**options)
    with pytest.raises(ValueError, match=r"--top-p must be in 0\.\.1; got 1\.5"):
        shakespeare.Arguments(top_p=1.5)
    together: Any = {"coordinator": "localhost:1", "processes": 2}
    assert char_rnn.Arguments(**together, process_id=1).process_id == 1
    with pytest.raises(ValueError, match=r"--process-id must be in 0\.\.1; got 2"):
        char_rnn.Arguments(**together, process_id=2)


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_an_error_before_a_folder_is_made(call, tmp_path, steps):
    for example in (char_rnn, sequence_tasks, shakespeare):
        refused(call(example, "--steps", steps, "--out", tmp_path / "run"), 2, "--steps must be at least 1", steps)
    assert not list(tmp_path.iterdir())
