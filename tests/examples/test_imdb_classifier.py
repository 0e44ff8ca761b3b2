"""The classifier of film reviews from reviews to answers, on a few made-up ones."""

import dataclasses
import json
import types
from typing import Any

import numpy as np
import pytest

import zoo
from data.imdb import CLASS_NAMES
from data.labelled import LabelledCorpus, LabelledTexts
from examples import classification_corpus, imdb_classifier
from examples.imdb_classifier import Arguments, main
from examples.imdb_presets import PRESETS, preset_of
from examples.with_bar import with_bar

_UNCHANGED = dict(PRESETS)
GOOD, BAD = ("great", "loved", "wonderful", "best"), ("awful", "boring", "worst", "hated")


def reviews(count, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 2
    texts = []
    for label in labels:
        words = rng.choice(["the", "film", "was", "actors", "<br />"], rng.integers(3, 12)).tolist()
        texts.append(" ".join([*words, *rng.choice(GOOD if label else BAD, 3)]))
    return LabelledTexts.of(texts, [CLASS_NAMES[label] for label in labels], CLASS_NAMES)


@pytest.fixture(autouse=True, scope="module")
def few_reviews(tmp_path_factory):
    few = LabelledCorpus(reviews(256, 0), reviews(40, 1), reviews(60, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(classification_corpus, "load_imdb", lambda data_dir: few)
        patch.setattr("training.reporting.run.draw_curves", lambda history, path, title: None)
        for name, preset in PRESETS.items():
            model = dataclasses.replace(preset.model, ngram_buckets=1000)
            buckets = (16, preset.max_tokens)
            small = dataclasses.replace(preset, tokenizer="words", bucket_boundaries=buckets, model=model)
            patch.setitem(PRESETS, name, small)
        yield


@pytest.fixture(scope="module")
def trained(few_reviews, tmp_path_factory):
    """The folder and the figures of a run that has learned."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, main(Arguments(model="convnet", epochs=10, out=folder))


def check(folder, metrics, model):
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["test_accuracy"] == metrics["test_accuracy"]
    assert np.sum(metrics["confusion"]) == 60
    low, high = metrics["test_accuracy_interval"]
    assert low <= metrics["test_accuracy"] <= high
    saved = zoo.load(folder / "model.safetensors")
    assert type(saved).__name__ == model
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert "tive " in (folder / "samples.txt").read_text()


@pytest.mark.compat
def test_learns_and_answers(trained, tmp_path, capsys):
    run, metrics = trained
    check(run, metrics, "TextConvNet")
    assert metrics["test_accuracy"] > 0.9
    model = run / "model.safetensors"
    asked = ["wonderful,\u2028I loved it!\x85", "the WORST\x0cfilm", "boring<br />awful " * 400]
    (tmp_path / "asked.txt").write_text("{}\r\n\r\n{}\r{}\n \n".format(*asked), encoding="utf-8", newline="")
    capsys.readouterr()
    answers = main(Arguments(predict_file=tmp_path / "asked.txt", checkpoint=model))["probabilities"]
    assert np.argmax(answers, axis=1).tolist() == [1, 0, 0]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:1] for line in lines] == [["positive"], [], ["negative"], ["negative"], []]
    asked_as_text = main(Arguments(predict=str(tmp_path / "asked.txt"), checkpoint=run))["probabilities"]
    assert asked_as_text == answers
    alone = [main(Arguments(predict=text, checkpoint=model))["probabilities"][0] for text in asked]
    np.testing.assert_allclose(alone, answers, atol=1e-5)


# By default the best convnet is `trained`, and the seed's transformer in several seeds at once.
@pytest.mark.slow
@pytest.mark.parametrize(("model", "preset"), [name for name in PRESETS if name != ("convnet", "best")])
def test_every_preset_runs(tmp_path, model, preset):
    metrics = main(Arguments(model=model, preset=preset, smoke=True, out=tmp_path / "run"))
    check(tmp_path / "run", metrics, {"convnet": "TextConvNet", "transformer": "TransformerClassifier"}[model])


@pytest.mark.compat
def test_several_seeds_at_once(tmp_path, monkeypatch):
    tested = []

    def count(ask, texts, what, **options):
        tested.append(what)
        return with_bar(ask, texts, what, **options)

    monkeypatch.setattr(imdb_classifier, "with_bar", count)
    metrics = main(Arguments(model="transformer", preset="seed", smoke=True, seeds=2, out=tmp_path / "run"))
    assert len(metrics["test_accuracy_each"]) == len(metrics["validation_loss"]) == 2
    assert metrics["test_accuracy"] == pytest.approx(np.mean(metrics["test_accuracy_each"]))
    assert metrics["validation_loss"][0] != metrics["validation_loss"][1]
    # Five steps, two to an epoch: a seed whose last one is its best is tested once.
    assert tested == ["testing"] * (2 + sum(epoch != 2.5 for epoch in metrics["best_epoch"]))


def test_reviews_are_shown_with_both_labels(trained, capsys, tmp_path, monkeypatch):
    model = trained[0] / "model.safetensors"
    test = classification_corpus.load_imdb(None).test
    shown = main(Arguments(show=(3, 0, 58), checkpoint=model))
    assert shown["labels"] == test.labels[[3, 0, 58]].tolist()
    blocks = capsys.readouterr().out.rstrip().split("\n\n")
    for block, i, p in zip(blocks, (3, 0, 58), shown["probabilities"], strict=True):
        *text, predicted, actual = block.splitlines()
        assert max(map(len, text)) <= 100
        assert " ".join(text).split() == test[i].split()
        assert predicted == f"predicted: {CLASS_NAMES[np.argmax(p)]} {max(p):.1%}"
        assert actual == f"actual: {CLASS_NAMES[test.labels[i]]}"
    with pytest.raises(ValueError, match=r"--show must be in 0\.\.59; got 60"):
        main(Arguments(show=(60,), checkpoint=model))
    samples = (trained[0] / "samples.txt").read_text()
    assert "  (negative)\n" in samples
    assert "  (positive)\n" in samples


def test_keras_ids_take_the_place_of_the_reviews(tmp_path, monkeypatch):
    few = classification_corpus.load_imdb(None)
    words = ["\0", "film", "the", *GOOD, *BAD]
    monkeypatch.setattr(classification_corpus, "load_keras_imdb", lambda folder, unpickle: (few, words))
    run = tmp_path / "run"
    main(Arguments(model="transformer", preset="seed", keras_ids=tmp_path, smoke=True, out=run))
    assert zoo.read_extra(run / "model.safetensors")["tokenizer"]["words"] == " ".join(words)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["differs_from_seed"] == list(PRESETS["transformer", "seed"].differs_from_seed)
    assert 0 <= summary["metrics"]["last_test_accuracy"] <= 1
    with pytest.raises(ValueError, match="--keras-ids are words"):
        Arguments(preset="seed", keras_ids=tmp_path)


def test_the_seeds_presets_are_the_documents():
    transformer: Any
    convnet: Any
    transformer, convnet = (_UNCHANGED[model, "seed"] for model in ("transformer", "convnet"))
    for preset, rate, length in ((transformer, 1e-4, 200), (convnet, 5e-4, 500)):
        assert (preset.epochs, preset.learning_rate, preset.schedule, preset.clip_norm) == (
            10,
            rate,
            "constant",
            None,
        )
        assert (preset.batch_size, preset.max_tokens, preset.bucket_boundaries) == (128, length, (length,))
        assert len(preset.differs_from_seed) > 3
    assert convnet.model.norm_epsilon == transformer.model.norm_epsilon == 1e-6
    assert (convnet.model.padding, convnet.truncation, transformer.truncation) == ("SAME", "head", "tail")


def test_a_wider_model_is_trained_further_in_smaller_steps():
    def rates(*, further: bool) -> list[float]:
        preset = preset_of(("transformer", "best"), further=further, trial=False)
        sizes = [dataclasses.replace(preset.model, embed_size=size) for size in (16, 128, 384, 768)]
        return [preset.rate_of(types.SimpleNamespace(config=config)) / preset.learning_rate for config in sizes]

    assert rates(further=True) == pytest.approx([1, 1, 1 / 3, 1 / 6])
    assert rates(further=False) == [1, 1, 1, 1]


def test_bad_input_is_named(trained, tmp_path):
    with pytest.raises(ValueError, match=r"--seeds must be in 1\.\.1000"):
        Arguments(seeds=0)
    with pytest.raises(ValueError, match="not both"):
        Arguments(predict="a", predict_file=tmp_path)
    model = trained[0] / "model.safetensors"
    with pytest.raises(ValueError, match="at least one token; there is none in '!!!'"):
        main(Arguments(predict="!!!", checkpoint=model))
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"blank\.txt has no text"):
        main(Arguments(predict_file=tmp_path / "blank.txt", checkpoint=model))
    with pytest.raises(zoo.ModelFileError):
        main(Arguments(predict="good", checkpoint=tmp_path / "blank.txt"))
