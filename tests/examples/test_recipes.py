"""The recipes still prove what they claim, each in a page."""

import importlib
import re
import sys
import types
from pathlib import Path

import pytest

from examples.recipes import own_data
from tests.command_lines import answers

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "examples/recipes").glob("*.py"))

pytestmark = pytest.mark.usefixtures("as_users")  # run-time type checks would double the time


@pytest.fixture(autouse=True)
def _forget_compiled_after_each(forget_compiled):
    """Each trains a model of its own."""
    yield
    forget_compiled()


def run(name: str, *arguments):
    return importlib.import_module(f"examples.recipes.{name}").main(*arguments)


def test_each_is_a_page_that_answers_a_question():
    assert len(RECIPES) >= 17
    for recipe in RECIPES:
        text = recipe.read_text()
        assert len(text.splitlines()) <= 60, recipe.name
        assert re.match(r'"""How do I [^\n]*\?\n\n', text), recipe.name
        assert text.endswith('\n\nif __name__ == "__main__":\n    main()\n'), recipe.name


def test_the_readme_has_a_row_for_each_and_each_is_run_here():
    listed = set(re.findall(r"`(examples/recipes/\w+\.py)`", (ROOT / "README.md").read_text()))
    assert listed == {path.relative_to(ROOT).as_posix() for path in RECIPES}
    tests = Path(__file__).read_text()
    for recipe in RECIPES:
        assert f'run("{recipe.stem}"' in tests or f"recipes/{recipe.stem}.py" in tests, recipe.name


def test_fine_tune_beats_a_new_start():
    losses = run("fine_tune")
    assert losses["fine_tuned"] < 0.9 * losses["from_scratch"]


def test_freeze():
    out = run("freeze")
    assert out["frozen"] == ["embedding.weight", "position_embedding.weight"]
    assert out["blocks"] == [True, False]
    assert out["losses"][-1] < 0.9 * out["losses"][0]


def test_lora():
    out = run("lora")
    assert out["trained"] < out["of"] / 4
    assert out["same"]
    assert out["apart"] < 1e-4
    assert out["losses"][1] < 0.5 * out["losses"][0]
    assert out["bytes"] < 40_000


def test_replace_head():
    out = run("replace_head")
    assert out["same_rows"]
    assert out["same_body"]
    first, last = out["losses"]
    assert 0.9 < first < 1.3
    assert last < 0.3 * first


def test_own_loss():
    out = run("own_loss")
    assert out["log_z"][1] < 0.5 * out["log_z"][0]
    assert min(out["accuracy"]) > 0.9


def test_own_data():
    out = run("own_data")
    first, second = out["epochs"]
    lengths = sorted(len(line.split(",", 1)[1].strip('"')) for line in own_data.TABLE.splitlines()[1:])
    assert sorted(first) == sorted(second) == lengths
    assert first != second
    assert out["resumed"]
    assert out["accuracy"] == 1.0


def test_own_sampler():
    counts = run("own_sampler")
    assert counts["greedy"] > 3
    assert counts["no pair twice"] == 1


def test_own_model():
    out = run("own_model")
    assert out["loss"] < 0.5
    assert out["written"] == " sat on a mat. my d"
    assert out["log_probs"] == sorted(out["log_probs"], reverse=True)


def test_learning_rate_finder():
    out = run("learning_rate_finder")
    low, found, high = out["losses"]
    assert found < min(low, high)


def test_score_text():
    out = run("score_text")
    sentence, mixed = out["perplexity"]
    assert sentence < 0.3 * mixed
    assert out["apart"] < 1e-4


def test_bfloat16_inference():
    out = run("bfloat16_inference")
    assert out["bytes"][0] == 2 * out["bytes"][1]
    assert out["dtype"] == "float32"
    assert 0 < out["apart"] < 0.05
    assert out["same"] > 0.9


def test_constrained_beams():
    out = run("constrained_beams")
    assert out["found"] == out["ranked"]
    assert len(set(out["found"])) == 8


def test_numpy_export():
    out = run("numpy_export")
    assert out["same"]
    assert out["apart"] < 1e-4
    assert "head.weight is float32[32, 10], the model takes float32[10, 32]" in out["refused"]


def test_embed_and_search():
    out = run("embed_and_search")
    untrained, trained = out["hits"]
    assert untrained < 4 < trained <= out["of"]


def test_attention_picture(tmp_path):
    out = run("attention_picture", tmp_path / "attention.png")
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert out["accuracy"] > 0.95
    assert out["attended"] == [4, 3, 2, 1, 0]


RECORDS = [(1, "loss"), (2, "loss"), (2, "validation_loss"), (3, "loss"), (4, "loss"), (4, "validation_loss")]


class Wandb(types.ModuleType):
    """What the recipe uses of it."""

    def init(self, **_):
        self.seen, self.closed = [], False
        return self

    def log(self, figures, *, step):
        self.seen += [(step, name) for name in figures]

    def finish(self):
        self.closed = True


class TensorboardX(types.ModuleType):
    def SummaryWriter(self, folder):
        self.seen, self.closed = [], False
        return self

    def add_scalar(self, name, value, step):
        assert isinstance(value, float)
        self.seen.append((step, name))

    def close(self):
        self.closed = True


@pytest.mark.parametrize(("name", "kind"), [("wandb", Wandb), ("tensorboardX", TensorboardX), (None, None)])
def test_log_to_tracker(name, kind, monkeypatch, capsys):
    tracker = None if kind is None else kind(name)
    recipe = importlib.import_module("examples.recipes.log_to_tracker")
    monkeypatch.setattr(recipe, "find_spec", lambda asked: asked == name)
    if tracker is not None:
        monkeypatch.setitem(sys.modules, name, tracker)
    out = run("log_to_tracker")
    assert set(out["logged"]) >= set(RECORDS)
    if tracker is None:
        assert "1 loss 2." in capsys.readouterr().out
    else:
        assert tracker.seen == out["logged"]
        assert tracker.closed


def test_several_devices_as_its_users_run_it():
    """In a process of its own: how many devices a CPU plays is settled before JAX computes anything."""
    (done,) = answers(ROOT / "examples/recipes/several_devices.py", [])
    assert done.returncode == 0, done.stderr
    assert "4 devices, each with 512 of 2048 numbers of a weight" in done.stdout
    (apart,) = re.findall(r"by (\S+) of themselves", done.stdout)
    assert float(apart) < 1e-5
