"""The example as its users run it: learn, save, answer, refuse."""

import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from examples import sequence_tasks
from examples.sequence_tasks import Arguments, main
from tests.command_lines import answers
from training import RunFolderError, adamw

ROOT = Path(__file__).parents[2]
FILES = {"summary.json", "metrics.jsonl", "timing.jsonl", "curves.png", "samples.txt", "model.safetensors"}


@pytest.fixture(scope="module")
def seed_run(tmp_path_factory):
    """Two steps of the seed's preset, and their metrics."""
    out = tmp_path_factory.mktemp("runs") / "seed"
    return out, main(Arguments(preset="seed", task="reverse", smoke=True, steps=2, out=out))


@pytest.fixture(scope="module")
def reversed_run(tmp_path_factory):
    """A run that learned to reverse, in under half of the seed's budget, and its metrics."""
    out = tmp_path_factory.mktemp("runs") / "reverse"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequence_tasks, "TESTED", 400)
        return out, main(Arguments(task="reverse", steps=400, out=out))


@pytest.mark.slow  # that the same loop learns is seen with the translator
def test_learns(reversed_run):
    out, metrics = reversed_run
    assert metrics["exact_match"] >= 0.99
    assert "right" in (out / "samples.txt").read_text()


@pytest.mark.compat
def test_writes_everything(seed_run):
    out, metrics = seed_run
    assert {path.name for path in out.iterdir()} >= FILES
    summary = json.loads((out / "summary.json").read_text())
    assert summary["metrics"] == pytest.approx(metrics)
    assert summary["steps"] == 2
    assert summary["arguments"]["task"] == "reverse"
    assert {"device", "versions", "seconds", "parameters"} <= summary.keys()
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len((out / "metrics.jsonl").read_text().splitlines()) >= 2


def test_the_seeds_preset_is_the_document(seed_run):
    """Its sizes, and its steps those of Trax's Adam: every array decays by 1e-5, whatever the rate."""
    run, _ = seed_run
    summary = json.loads((run / "summary.json").read_text())
    assert summary["parameters"] == 93_088
    assert len(summary["differs_from_seed"]) == len(sequence_tasks.PRESETS["seed"].differs_from_seed) > 0
    model = zoo.load(run / "model.safetensors")
    assert (model.config.num_heads, model.vocab_size, model.max_length, model.config.dropout_p) == (8, 32, 2048, 0.1)
    assert zoo.read_extra(run / "model.safetensors") == {"task": "reverse", "length": 4}

    preset = sequence_tasks.PRESETS["seed"]
    optimiser = adamw(preset.learning_rate, total_steps=1000, **preset.optimiser)
    weights = {"bias": np.array([1.0, -2.0], np.float32)}
    state, expected, m, v = optimiser.init(weights), weights["bias"].astype(np.float64), np.zeros(2), np.zeros(2)
    for step, gradient in enumerate(([0.3, 1e-6], [-0.1, 2e-5], [0.0, 1e-5]), start=1):
        g = np.array(gradient)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        hats = m / (1 - 0.9**step), np.sqrt(v / (1 - 0.999**step))
        expected = (1 - 1e-5) * expected - 0.01 * hats[0] / (hats[1] + 1e-5)
        updates: Any
        updates, state = optimiser.update({"bias": jnp.asarray(g, jnp.float32)}, state, weights)
        weights = {"bias": weights["bias"] + np.asarray(updates["bias"])}
    np.testing.assert_allclose(weights["bias"], expected, rtol=1e-6)


@pytest.mark.slow  # beside the two below, which need no training
def test_answers_from_the_saved_model(reversed_run, capsys):
    model = reversed_run[0] / "model.safetensors"
    main(Arguments(checkpoint=model, prompt="0 4 6 8 10 0", max_new_tokens=4))
    assert capsys.readouterr().out == "10 8 6 4\n"
    main(Arguments(checkpoint=model, prompt="0 3 15 14 9 0"))
    assert capsys.readouterr().out == "9 14 15 3\n"


def test_what_cannot_be_answered_is_named(seed_run):
    model = seed_run[0] / "model.safetensors"
    with pytest.raises(ValueError, match=r"token 99 at index 1 .* \(0 to 31\)"):
        main(Arguments(checkpoint=model, prompt="0 99 3"))
    with pytest.raises(ValueError, match="integers between spaces"):
        main(Arguments(checkpoint=model, prompt="0 four"))
    with pytest.raises(ValueError, match=r"max_length \(2048\)"):
        main(Arguments(checkpoint=model, prompt="0 4 6 8 10 0", max_new_tokens=2043))


def test_answers_from_a_trax_checkpoint(capsys):
    folder = os.environ.get("ZOO_DATA_DIR")
    file = Path(folder, "trax/transformerlm_copy.pkl.gz") if folder else None
    if file is None or not file.exists():
        pytest.skip("needs trax/transformerlm_copy.pkl.gz in ZOO_DATA_DIR")
    main(Arguments(checkpoint=file, prompt="0 3 7 5 3 2 4 0", max_new_tokens=6))
    assert capsys.readouterr().out == "3 7 5 3 2 4\n"


@pytest.mark.slow  # `test_several_seeds_at_once` of the classifier; rates of an ensemble are in tests/training
def test_several_learning_rates_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("training.reporting.run.draw_curves", lambda history, path, title: None)
    metrics = main(Arguments(task="copy", smoke=True, steps=4, learning_rates=(1e-3, 1e-2), out=tmp_path / "run"))
    assert len(metrics["exact_match_each"]) == 2


def test_wrong_arguments():
    with pytest.raises(ValueError, match="belong together"):
        Arguments(prompt="0 1 0")
    with pytest.raises(ValueError, match="--seeds"):
        Arguments(seeds=0)
    with pytest.raises(ValueError, match="not both"):
        Arguments(seeds=2, learning_rates=(1e-3,))


def test_touches_no_folder_of_somebody_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match="holds other files"):
        main(Arguments(smoke=True, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow  # the same calls of `main` are above, and what `cli` makes of them in tests/training
def test_the_command_line(reversed_run, tmp_path):
    model = reversed_run[0] / "model.safetensors"
    prompt = ["--prompt", "0 4 6 8 10 0", "--max-new-tokens", 4]
    answer, wrong, missing, help_text = answers(
        ROOT / "examples/sequence_tasks.py",
        ["--checkpoint", model, *prompt],
        ["--checkpoint", model, "--prompt", "0 99"],
        ["--checkpoint", "nowhere.safetensors", "--prompt", "0"],
        ["--help-all"],
        cwd=tmp_path,
    )
    assert (answer.returncode, answer.stdout) == (0, "10 8 6 4\n")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: token 99")
    assert wrong.stderr.count("\n") == 1
    assert missing.returncode == 4
    assert "nowhere.safetensors" in missing.stderr
    assert help_text.returncode == 0
    assert "--task" in help_text.stdout
    assert "  - no sequence of the test occurs in training\n" in help_text.stdout
    assert list(tmp_path.iterdir()) == []
