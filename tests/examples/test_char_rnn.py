"""The character RNN from a text file to writing."""

import json
from typing import Any

import pytest

import zoo
from data.windows import Streams
from examples import char_rnn, char_rnn_presets
from examples.char_rnn import Arguments, main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("char_rnn")
    (folder / "text.txt").write_text("Als Gregor Samsa erwachte, läutete es.\n" * 100, encoding="utf-8")
    options: Any = {"preset": "kafka", "cell": "lstm", "smoke": True}
    with pytest.MonkeyPatch.context() as patch:  # other examples' tests look at theirs
        patch.setattr("training.reporting.run.draw_curves", lambda history, path, title: None)
        metrics = main(Arguments(text=str(folder / "text.txt"), out=folder / "run", **options))
    return folder / "run", metrics


@pytest.mark.compat
def test_any_text_and_cell_trains(run):
    out, metrics = run
    summary = json.loads((out / "summary.json").read_text())
    assert summary["metrics"] == pytest.approx(metrics)
    assert {"bits_per_character", "kneser_ney_bits_per_character", "training_loss"} <= metrics.keys()
    assert zoo.load(out / "model.safetensors").config.cell == "lstm"
    assert (out / "next_characters.png").read_bytes().startswith(b"\x89PNG")
    assert "greedy |" in (out / "samples.txt").read_text()


def test_the_seeds_preset_reads_epochs_of_ten_thousand(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.reporting.run.draw_curves", lambda history, path, title: None)
    monkeypatch.setattr(char_rnn, "draw_next_characters", lambda path, model, tokenizer, line: None)
    parts = []
    monkeypatch.setattr(
        char_rnn, "Streams", lambda *a, **k: parts.append((*a[1:], k.get("part_length"))) or Streams(*a, **k)
    )
    (tmp_path / "text.txt").write_text("Als Gregor Samsa erwachte, läutete es.\n" * 400, encoding="utf-8")
    main(Arguments(text=str(tmp_path / "text.txt"), preset="seed", steps=2, out=tmp_path / "run"))
    assert parts[0] == (1, 256, 10_000)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["differs_from_seed"] == list(char_rnn_presets.PRESETS["seed"].differs_from_seed)
    greedy = capsys.readouterr().out.split("greedy | ")[-1].split("0.8 | ")[0]
    assert len(greedy.replace("\n         | ", "\n").rstrip(" ")) == 6 + 500 + 1  # prompt, text and line feed


def test_learns_the_pattern(tmp_path, monkeypatch):
    monkeypatch.setattr("training.reporting.run.draw_curves", lambda history, path, title: None)
    monkeypatch.setattr(char_rnn, "draw_next_characters", lambda *_: None)  # the other run's is seen
    metrics = main(Arguments(preset="abcd", out=tmp_path / "run"))
    assert metrics["exact_characters"] >= 200


def test_writes(run, capsys):
    model = run[0] / "model.safetensors"
    text = main(Arguments(write="Gregor", checkpoint=model, length=80))["text"]
    assert text.startswith("Gregor")
    assert len(text) == 86
    assert capsys.readouterr().out == text + "\n"
    with pytest.raises(ValueError, match="'Q'"):
        main(Arguments(write="Q", checkpoint=model))
    with pytest.raises(ValueError, match="at least one token"):
        main(Arguments(write="", checkpoint=model))
    with pytest.raises(ValueError, match="--length"):
        main(Arguments(write="G", checkpoint=model, length=-1))
