"""Examples that begin with a saved model: what is new, what is trained, what is saved apart; and what can't be."""

import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trained

import zoo
import zoo.text
from examples import char_rnn, imdb_classifier, sequence_tasks, shakespeare, translate
from examples.fine_tuning import FineTuning
from examples.start_of_classifier import classifier_on, new_parts
from zoo import (
    CharRNN,
    CharRNNConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
    TextEncoder,
    TextEncoderConfig,
    TransformerLM,
    TransformerLMClassifier,
    TransformerLMConfig,
)
from zoo.rebuild import named_arrays
from zoo.text import CharacterTokenizer, Classifier, Embedder, Translator, Writer, train_byte_pairs

KEY = jax.random.key(3)
SIZES: Any = {"embed_size": 8, "num_heads": 2, "mlp_size": 16}
TEXT = "the film was good, the film was bad. " * 100
TOKENIZER = CharacterTokenizer.from_text(TEXT + "\n>")


@pytest.fixture(autouse=True, scope="module")
def no_pictures(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("training.reporting.run.draw_curves", lambda history, path, title: None)
        for name in (
            "char_rnn.draw_next_characters", "translate.draw_bleu", "translate.draw_translation",
            "shakespeare.draw_looks", "classification_report.draw_looks", "classification_report.draw_confusion",
        ):  # fmt: skip
            patch.setattr(f"examples.{name}", lambda *_, **options: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, fill):
    """A saved language model, and a folder as of Hugging Face's with an encoder of sentences."""
    folder = tmp_path_factory.mktemp("saved")
    config = TransformerLMConfig(vocab_size=TOKENIZER.vocab_size, num_layers=2, max_length=40, **SIZES)
    Writer(model=fill(lambda key: TransformerLM(config, key=key)), tokenizer=TOKENIZER).save(
        folder / "lm.safetensors"
    )
    trained.write_folder(folder / "bert", "word piece", pad_token="[PAD]")
    bert = TextEncoderConfig.bert(vocab_size=200, max_length=32, num_layers=2, head="none", **SIZES)
    zoo.to_pretrained(folder / "bert", fill(lambda key: TextEncoder(bert, key=key)))
    (folder / "bert/README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\nA model.\n")
    (folder / "text.txt").write_text(TEXT)
    for part, count in (("train", 64), ("validation", 8), ("test", 8)):
        lines = [f"the film was {('bad', 'good')[i % 2]}\t{('no', 'yes')[i % 2]}" for i in range(count)]
        (folder / f"{part}.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    (folder / "pairs.tsv").write_text("".join(f"film {i} was {i % 7}\tcine {i} {i % 7}\n" for i in range(400)))
    return folder


def reviews(folder, **options: Any):
    parts = {part: folder / f"{part}.tsv" for part in ("train", "validation", "test")}
    return imdb_classifier.Arguments(**parts, **options)


def tuning(**options: Any) -> FineTuning:
    return FineTuning(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": 2}, "--lora needs --init-from"),
        ({"lora": 2, "init_from": Path("a"), "freeze": ("b",)}, "either --lora or --freeze"),
        ({"lora": 0, "init_from": Path("a")}, "--lora must be at least 1; got 0"),
        ({"learning_rate": 0.0}, "--learning-rate must be more than 0; got 0.0"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        tuning(**options)


def test_models_that_do_not_fit(folder):
    lm = {"init_from": folder / "lm.safetensors"}
    with pytest.raises(
        ValueError, match=r"must hold a model of class CharRNN; .*lm\.safetensors holds a TransformerLM"
    ):
        char_rnn.main(char_rnn.Arguments(text=str(folder / "text.txt"), **lm))
    with pytest.raises(ValueError, match=r"must hold a model of class EncoderDecoder; .*bert holds a TextEncoder"):
        translate.main(translate.Arguments(pairs=folder / "pairs.tsv", init_from=folder / "bert"))
    with pytest.raises(
        ValueError, match=r"of at least 61 tokens and a max_length of at least 10 .* it has 19 and 40"
    ):
        sequence_tasks.main(sequence_tasks.Arguments(max_value=60, **lm))
    with pytest.raises(ValueError, match=r"--max-tokens must be at most the model's max_length, 40; got 41"):
        imdb_classifier.main(reviews(folder, **lm, max_tokens=41))


def test_what_is_frozen_by_name(folder):
    lm = zoo.load(folder / "lm.safetensors")
    names = [name for name, array in named_arrays(lm).items() if eqx.is_inexact_array(array)]
    frozen = tuning(freeze=("embedding", "stack.*.mlp", "*norm.bias"))
    left = frozen._trained(lm, ())
    assert {name.removesuffix(".weight").removesuffix(".bias") for name in set(names) - left} == {
        "embedding", "stack.blocks.mlp.up", "stack.blocks.mlp.down", "final_norm", "stack.blocks.attention_norm",
        "stack.blocks.mlp_norm",
    }  # fmt: skip
    assert "final_norm.weight" in left
    with pytest.raises(
        ValueError, match=r"--freeze head\.wieght is the name of no weight; there are embedding\.weight"
    ):
        tuning(freeze=("head.wieght",))._trained(lm, ())


def test_small_steps_where_weights_of_a_model_are_trained_further_and_large_ones_for_a_head_alone(folder):
    writer = tuning(init_from=folder / "lm.safetensors").base(TransformerLM)
    model = classifier_on(writer, ("no", "yes"), key=KEY)

    def rate(new: tuple[str, ...] = ("head",), **options: Any) -> float:
        return tuning(init_from=Path("a"), **options).rate(0.1, model, new)

    assert tuning().rate(0.1) == tuning(freeze=("embedding",)).rate(0.1) == 0.1
    assert tuning(init_from=Path("a"), freeze=("embedding",)).rate(0.1) == pytest.approx(0.01)
    assert rate() == rate(freeze=("*embedding*",)) == rate(freeze=("body",), new=()) == pytest.approx(0.01)
    assert rate(freeze=("body",)) == pytest.approx(0.6)
    assert rate(lora=2) == 0.1
    assert rate(learning_rate=0.3) == rate(learning_rate=0.3, freeze=("body",)) == 0.3


def test_a_new_head_where_the_classes_differ(folder):
    writer = tuning(init_from=folder / "lm.safetensors").base(TransformerLM)
    of_lm: Any = classifier_on(writer, ("no", "yes"), key=KEY)
    assert new_parts(writer, ("no", "yes")) == ("head",)
    tokens = jnp.asarray(TOKENIZER.encode("the film"))
    np.testing.assert_allclose(of_lm.body.hidden(tokens), writer.model.hidden(tokens), atol=1e-6)
    still = eqx.nn.inference_mode(of_lm)
    np.testing.assert_allclose(
        still.hidden(jnp.pad(tokens, (0, 3)), 8), writer.model.hidden(tokens).mean(0), atol=1e-5
    )

    embedder = tuning(init_from=folder / "bert").base(TextEncoder)
    assert isinstance(embedder, Embedder)
    of_encoder: Any = eqx.nn.inference_mode(classifier_on(embedder, ("a", "b", "c"), key=KEY))
    ids = jnp.asarray(embedder.tokenizer.encode("the dog"))
    vector = of_encoder.hidden(ids, len(ids))
    np.testing.assert_allclose(vector / np.linalg.norm(vector), embedder.model.embed(ids), atol=1e-5)
    assert of_encoder.config.dropout_p == embedder.model.config.dropout_p == 0
    assert of_encoder(ids).shape == (3,)

    classifier = Classifier(model=of_lm, tokenizer=TOKENIZER, class_names=("no", "yes"))
    assert classifier_on(classifier, ("no", "yes"), key=KEY) is of_lm
    assert new_parts(classifier, ("no", "yes")) == ()
    other: Any = classifier_on(classifier, ("good", "bad"), key=KEY)
    assert bool(eqx.tree_equal(other.body, of_lm.body))
    assert not np.allclose(other.head.weight, of_lm.head.weight)


def test_a_classifier_by_updates_of_low_rank(folder, tmp_path, capsys):
    metrics = imdb_classifier.main(
        reviews(folder, init_from=folder / "bert", lora=2, smoke=True, out=tmp_path / "run")
    )
    assert "parameters are trained; the optimiser's state has" in capsys.readouterr().out
    assert metrics["trained_parameters"] == 2 * 2 * (4 * 16 + 2 * 24) + 2 * (8 + 1)
    assert metrics["optimiser_bytes"] < 2.1 * 4 * metrics["trained_parameters"]
    saved = zoo.text.load(tmp_path / "run/model.safetensors")
    assert saved.model.config.pooling == "mean"
    apart = tmp_path / "run/lora.safetensors"
    extra = zoo.read_extra(apart)
    assert (extra["base"].split("/")[-1], extra["licence"]) == ("bert", "apache-2.0")
    base: Any = classifier_on(tuning(init_from=folder / "bert").base(TextEncoder), ("no", "yes"), key=KEY)
    again = zoo.merge_lora(zoo.load(apart).add_to(base))
    assert bool(eqx.tree_equal(again, saved.model, rtol=1e-6, atol=1e-6))
    assert not bool(eqx.tree_equal(again, base, rtol=1e-6, atol=1e-6))
    asked = imdb_classifier.main(
        imdb_classifier.Arguments(predict="the dog", checkpoint=apart.with_name("model.safetensors"))
    )
    assert np.shape(asked["probabilities"]) == (1, 2)


@pytest.mark.slow
def test_a_classifier_on_the_body_of_a_language_model_in_three_seeds(folder, tmp_path):
    frozen = {"init_from": folder / "lm.safetensors", "freeze": ("body",), "seeds": 3, "smoke": True}
    metrics = imdb_classifier.main(reviews(folder, **frozen, truncation="both", max_tokens=20, out=tmp_path / "run"))
    assert len(metrics["test_accuracy_each"]) == 3
    assert metrics["trained_parameters"] == 2 * (8 + 1)
    saved = zoo.text.load(tmp_path / "run/model.safetensors")
    assert isinstance(saved.model, TransformerLMClassifier)
    assert (saved.max_tokens, saved.truncation) == (20, "both")
    lm = zoo.load(folder / "lm.safetensors")
    assert bool(eqx.tree_equal(saved.model.body.stack, lm.stack))


@pytest.mark.slow
def test_writers_go_on_learning(folder, tmp_path):
    text = {"text": str(folder / "text.txt"), "smoke": True}
    # As in the folder of a run, which is named instead of its file.
    (tmp_path / "lm").mkdir()
    shutil.copy(folder / "lm.safetensors", tmp_path / "lm/model.safetensors")
    arguments: Any = {"init_from": tmp_path / "lm", "freeze": ("embedding", "head"), "out": tmp_path / "1"}
    shakespeare.main(shakespeare.Arguments(**text, **arguments))
    before, after = (zoo.load(tmp_path / name / "model.safetensors") for name in ("lm", "1"))
    assert bool(eqx.tree_equal(before.embedding, after.embedding))
    assert not bool(eqx.tree_equal(before.stack, after.stack))

    rnn = CharRNN(CharRNNConfig(vocab_size=TOKENIZER.vocab_size, hidden_size=8, num_layers=1), key=KEY)
    Writer(model=rnn, tokenizer=TOKENIZER).save(tmp_path / "rnn.safetensors")
    arguments = {"init_from": tmp_path / "rnn.safetensors", "lora": 2, "out": tmp_path / "2"}
    char_rnn.main(char_rnn.Arguments(**text, **arguments))
    assert zoo.text.load(tmp_path / "2/model.safetensors").tokenizer == TOKENIZER
    assert zoo.load(tmp_path / "2/lora.safetensors").rank == 2

    arguments = {"init_from": tmp_path / "lm", "lora": 2, "out": tmp_path / "3"}
    sequence_tasks.main(sequence_tasks.Arguments(max_value=9, seeds=2, smoke=True, **arguments))
    assert zoo.load(tmp_path / "3/model.safetensors").vocab_size == TOKENIZER.vocab_size


@pytest.mark.slow
def test_a_translator_goes_on_learning(folder, tmp_path):
    words = [f"film cine was {i}" for i in range(400)]
    tokenizer = train_byte_pairs(words, 300)
    config = EncoderDecoderConfig(vocab_size=tokenizer.vocab_size, num_layers=1, max_length=24, **SIZES)
    model = EncoderDecoder(config, key=KEY)
    Translator(model=model, source=tokenizer, target=tokenizer).save(tmp_path / "translator.safetensors")
    arguments: Any = {"pairs": folder / "pairs.tsv", "smoke": True, "init_from": tmp_path / "translator.safetensors"}
    translate.main(translate.Arguments(**arguments, lora=2, out=tmp_path / "run"))
    again = zoo.text.load(tmp_path / "run/model.safetensors")
    assert again.source == tokenizer
    before, after = named_arrays(model), named_arrays(again.model)
    assert {name: array.shape for name, array in after.items()} == {n: array.shape for n, array in before.items()}
    changed = {name for name in before if not np.allclose(before[name], after[name])}
    assert changed
    assert not any("norm" in name or "embedding" in name or name.endswith("bias") for name in changed)
