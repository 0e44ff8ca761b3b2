"""The translator from sentence pairs to translations, on a made-up language of a dozen words."""

import dataclasses
import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoo.text
from data.pairs import read_pairs, split_pairs
from examples import translate
from examples.translate import PRESETS, Arguments, main
from examples.translate_presets import FEW_PAIRS, preset_for
from zoo.text import BytePairTokenizer

WORDS = {"I": "Yo", "you": "tú", "see": "ver", "hear": "oír", "the": "el", "a": "un", "dog": "perro", "cat": "gato"}


@pytest.fixture(autouse=True, scope="module")
def pairs(tmp_path_factory):
    """A file of sentence pairs, and presets small enough for them."""
    path, lines = tmp_path_factory.mktemp("pairs") / "pairs.tsv", []
    for words in itertools.product(("I", "you"), ("see", "hear"), ("the", "a"), ("dog", "cat"), ("", ".", "!", "?")):
        english = " ".join(words[:4]) + words[4]
        lines.append(f"{english}\t{' '.join(WORDS[word] for word in words[:4])}{words[4]}")
    path.write_text("\n".join(lines * 12), encoding="utf-8")
    best = PRESETS["best"]
    sizes: Any = {"embed_size": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "mlp_size": 64}
    small_best = dataclasses.replace(best.model, **sizes, dropout_p=0.0)
    small_seed = dataclasses.replace(PRESETS["seed"].model, embed_size=32, mlp_size=64)
    small: Any = {
        "few": dataclasses.replace(
            best, model=small_best, bucket_boundaries=((32, 32),), batch_size=32, warmup_steps=10, learning_rate=1e-2
        ),
        "seed": dataclasses.replace(
            PRESETS["seed"], model=small_seed, bucket_boundaries=((8, 10), (20, 20)), batch_size=32
        ),
    }
    small["best"] = dataclasses.replace(small["few"], model=dataclasses.replace(small_best, mlp_size=48))
    with pytest.MonkeyPatch.context() as patch:
        for name, preset in small.items():
            patch.setitem(PRESETS, name, preset)
        yield path


@pytest.fixture(scope="module")
def trained(pairs, tmp_path_factory):
    """The folder and the figures of a run that has learned."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, main(Arguments(pairs=pairs, epochs=12, out=folder))


@pytest.mark.compat
def test_learns_a_language_and_translates(tmp_path, trained, capsys, monkeypatch):
    run, metrics = trained
    assert metrics["bleu"] > 60
    assert metrics["token_accuracy"] > 0.9
    assert "version:" in metrics["signature_bleu"]
    assert json.loads((run / "summary.json").read_text())["metrics"]["bleu"] == metrics["bleu"]
    for picture in ("attention.png", "bleu.png", "curves.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    assert zoo.text.load(run / "model.safetensors").model.config.mlp_size == 64  # of so few pairs, not that of many
    samples = (run / "samples.txt").read_text()
    assert len(samples.split("--- step")[1].splitlines()) >= 5  # BLEU, three sentences, and another with a true one
    assert len(samples.split("--- step")[-1].splitlines()) == 11  # ten translations, each with a true one

    model = run / "model.safetensors"
    lines = ["I see the dog.", "", "you hear a cat!", "I hear the cat?"]
    (tmp_path / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    capsys.readouterr()
    from_file = main(Arguments(translate=str(tmp_path / "lines.txt"), checkpoint=model))["translations"]
    assert capsys.readouterr().out.splitlines() == from_file
    assert from_file[1] == ""
    assert main(Arguments(translate="-", checkpoint=model))["translations"] == from_file
    Path(tmp_path / "odd.txt").write_text("\r\n \rI see the dog.\u2028\x85\n\nI\x0chear the cat?", encoding="utf-8")
    monkeypatch.setattr(BytePairTokenizer, "decode", lambda self, ids: f"{len(ids)}\nwords\u2028")
    odd = main(Arguments(translate=str(tmp_path / "odd.txt"), checkpoint=model))["translations"]
    assert [line.endswith(" words ") for line in odd] == [False, False, True, False, True]
    monkeypatch.undo()
    assert main(Arguments(translate=lines[2], checkpoint=model))["translations"] == [from_file[2]]


def test_few_pairs_have_a_small_model_and_many_epochs():
    few = PRESETS["few"]
    assert preset_for("best", 250 * few.batch_size) == dataclasses.replace(few, epochs=26)  # 6,500 steps
    assert preset_for("best", FEW_PAIRS - 1).epochs == few.epochs
    assert preset_for("best", 1).epochs == 60
    assert preset_for("best", FEW_PAIRS) == PRESETS["best"]
    assert preset_for("seed", 1) == PRESETS["seed"]


@pytest.mark.slow
def test_the_seeds_preset_runs_standardised(tmp_path, pairs, monkeypatch):
    monkeypatch.setattr(translate, "draw_translation", lambda *_: None)  # the other run's are seen
    monkeypatch.setattr(translate, "draw_bleu", lambda *_: None)
    run = tmp_path / "run"
    main(Arguments(preset="seed", pairs=pairs, smoke=True, out=run))
    extra = zoo.read_extra(run / "model.safetensors")
    assert extra["standardise"] is True
    summary = json.loads((run / "summary.json").read_text())
    assert summary["differs_from_seed"] == list(PRESETS["seed"].differs_from_seed)
    metrics = summary["metrics"]
    target = BytePairTokenizer.from_json(extra["target"])
    held_out = split_pairs(read_pairs(pairs).standardised())["validation"].target
    real = np.mean([len(target.encode(text)) + 1 for text in held_out]) / 19  # of the seed's 19 places
    assert metrics["loss_over_all_ids"] == pytest.approx(np.log(100_277), abs=1)  # it has learned nothing yet
    assert metrics["loss_as_the_seed_counts"] == pytest.approx(real * metrics["loss_over_all_ids"])
    assert metrics["loss_with_padding_of_each_epoch"] == pytest.approx([real * metrics["validation_loss"]])
    assert 1 - real <= metrics["accuracy_as_the_seed_counts"] < 1
    assert extra["source"] == extra["target"]


def test_bad_input_is_named(tmp_path, trained):
    with pytest.raises(ValueError, match="--beams"):
        Arguments(beams=0)
    (tmp_path / "bad.tsv").write_text("one column\n")
    with pytest.raises(ValueError, match="line 1"):
        main(Arguments(pairs=tmp_path / "bad.tsv"))
    model = trained[0] / "model.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no file 'nosuch\.txt'"):
        main(Arguments(translate="nosuch.txt", checkpoint=model))
    for text, message in ((" ", "nothing to translate"), ("dog " * 200, "1 to 96 tokens")):
        with pytest.raises(ValueError, match=message):
            main(Arguments(translate=text, checkpoint=model))


@pytest.mark.parametrize(("beams", "batch_size"), [(1, 256), (3, 4)])
@pytest.mark.slow  # `test_learns_a_language_and_translates` asks for a line alone and in a file
def test_batches_and_padding_change_nothing(trained, beams, batch_size):
    """Sentences of all lengths, in any company and order, are translated as they are alone."""
    translator = dataclasses.replace(zoo.text.load(trained[0] / "model.safetensors"), batch_size=batch_size)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list(WORDS), rng.integers(1, 9))) for _ in range(9)]
    alone = [translator([text], num_beams=beams)[0] for text in texts]
    assert len(set(alone)) > 4
    assert translator(texts, num_beams=beams) == alone
    assert translator(texts[::-1], num_beams=beams) == alone[::-1]
