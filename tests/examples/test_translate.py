"""The translator from sentence pairs to translations, on a made-up language of a dozen words."""

import dataclasses
import io
import itertools
import json

import numpy as np
import pytest

import zoo
from data.tokenizers import BytePairTokenizer
from examples import translate
from examples.translate import PRESETS, Arguments, main

WORDS = {"I": "Yo", "you": "tú", "see": "ver", "hear": "oír", "the": "el", "a": "un", "dog": "perro", "cat": "gato"}
TOKENIZER = BytePairTokenizer(
    r"\s?\S+|\s+",
    [bytes([i]) for i in range(256)]
    + sorted({f" {w}"[:n].encode() for w in [*WORDS, *WORDS.values()] for n in range(2, 8) if w.isascii()}, key=len),
)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    pairs = []
    for words in itertools.product(("I", "you"), ("see", "hear"), ("the", "a"), ("dog", "cat"), ("", ".", "!", "?")):
        english = " ".join(words[:4]) + words[4]
        pairs.append((english, " ".join(WORDS[word] for word in words[:4]) + words[4]))
    lines = "\n".join("\t".join(pair) for pair in pairs * 3)
    (tmp_path / "pairs.tsv").write_text(lines, encoding="utf-8")
    monkeypatch.setattr(BytePairTokenizer, "named", classmethod(lambda cls, name, data_dir: TOKENIZER))
    monkeypatch.setattr(translate, "SHOWN", ("I see the dog.", "you hear a cat!"))
    best = PRESETS["best"]
    sizes = {
        "embed_size": 32,
        "num_layers": 1,
        "num_decoder_layers": 1,
        "num_heads": 2,
        "mlp_size": 64,
        "dropout_p": 0.0,
    }
    preset = dataclasses.replace(best, model=best.model | sizes, edges=((32, 32),), batch_size=32, warmup_steps=10)
    monkeypatch.setitem(PRESETS, "best", dataclasses.replace(preset, learning_rate=1e-2))
    monkeypatch.setitem(
        PRESETS, "seed", dataclasses.replace(PRESETS["seed"], model={"embed_size": 32, "mlp_size": 64}, batch_size=32)
    )


def test_learns_a_language_and_translates(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    metrics = main(Arguments(pairs=tmp_path / "pairs.tsv", epochs=40, out=run))
    assert metrics["bleu"] > 60
    assert metrics["token_accuracy"] > 0.9
    assert "version:" in metrics["signature_bleu"]
    assert json.loads((run / "summary.json").read_text())["metrics"]["bleu"] == metrics["bleu"]
    for picture in ("attention.png", "bleu.png", "curves.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    assert "you hear a cat!  ->  " in (run / "samples.txt").read_text()

    model = run / "model.safetensors"
    lines = ["I see the dog.", "", "you hear a cat!", "I hear the cat?"]
    (tmp_path / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    capsys.readouterr()
    from_file = main(Arguments(translate=str(tmp_path / "lines.txt"), checkpoint=model))["translations"]
    assert capsys.readouterr().out.splitlines() == from_file
    assert from_file[1] == ""
    assert main(Arguments(translate="-", checkpoint=model))["translations"] == from_file
    for line, written in zip(lines, from_file, strict=True):
        if line:
            assert main(Arguments(translate=line, checkpoint=model))["translations"] == [written]


def test_the_seeds_preset_runs_standardised(tmp_path):
    run = tmp_path / "run"
    main(Arguments(preset="seed", pairs=tmp_path / "pairs.tsv", standardise=True, smoke=True, out=run))
    extra = zoo.read_extra(run / "model.safetensors")
    assert extra["standardise"] is True
    assert extra["source"] == extra["target"]


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="--preset must be one of seed, best"):
        Arguments(preset="worst")
    with pytest.raises(ValueError, match="--beams"):
        Arguments(beams=0)
    (tmp_path / "bad.tsv").write_text("one column\n")
    with pytest.raises(ValueError, match="line 1"):
        main(Arguments(pairs=tmp_path / "bad.tsv"))
    run = tmp_path / "run"
    main(Arguments(pairs=tmp_path / "pairs.tsv", smoke=True, out=run))
    model = run / "model.safetensors"
    for text, message in ((" ", "nothing to translate"), ("dog " * 200, "1 to 96 tokens")):
        with pytest.raises(ValueError, match=message):
            main(Arguments(translate=text, checkpoint=model))


def test_batches_and_padding_change_nothing(tmp_path):
    """Sentences of all lengths, in any company and order, are translated as they are alone."""
    run = tmp_path / "run"
    main(Arguments(pairs=tmp_path / "pairs.tsv", epochs=2, out=run))
    model, extra = zoo.load(run / "model.safetensors", zoo.EncoderDecoder), zoo.read_extra(run / "model.safetensors")
    sides = [BytePairTokenizer.from_json(extra[side]) for side in ("source", "target")]
    import equinox as eqx

    translator = translate.Translator(eqx.nn.inference_mode(model), *sides, lower=False)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list(WORDS), rng.integers(1, 9))) for _ in range(9)]
    for beams in (1, 3):
        alone = [translator([text], beams=beams)[0] for text in texts]
        assert translator(texts, beams=beams, batch_size=4) == alone
        assert translator(texts[::-1], beams=beams) == alone[::-1]
