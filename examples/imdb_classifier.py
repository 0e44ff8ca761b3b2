"""Tell whether a film review is positive, with a Transformer or a 1-D ConvNet trained on IMDB's 25,000 reviews.

python examples/imdb_classifier.py --model transformer
python examples/imdb_classifier.py --predict "I laughed, I cried, I want my money back."
"""

if __name__ == "__main__":  # first, because the imports take seconds
    from training import handle_sigterm

    handle_sigterm()

import dataclasses
import math
import textwrap
from pathlib import Path
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import zoo
from data.buckets import Buckets
from data.imdb import CLASS_NAMES, Imdb, load_imdb, tokenised
from data.keras_imdb import load_keras_imdb
from data.pipeline import prebatched
from data.ragged import Ragged
from data.text import load_text, split_lines
from data.vocabularies import fetch_vocabulary
from examples.imdb_presets import NOTES, PRESETS
from training import Evaluation, Options, adamw, classification_loss, cli, fit, init_state, member, newest_file
from training.launch.options import check_numbers
from training.metrics import confusion_matrix, proportion_interval
from training.reporting.plots import draw_confusion
from training.reporting.run import may_fail
from training.saving.fingerprint import data_fingerprint
from zoo import TextConvNet, TransformerClassifier
from zoo.pretrained.inert_pickle import read_inert_pickle
from zoo.text import BytePairTokenizer, Tokenizer, WordTokenizer, tokenizer_from_json

EVALUATED = 256  # reviews of an evaluation at a time
MODELS = {"transformer": TransformerClassifier, "convnet": TextConvNet}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Train a classifier of film reviews, or ask a saved one."""

    OPTION_GROUPS: ClassVar = {
        "task": ("preset", "epochs", "seeds"),
        "model": ("model",),
        "data": ("data_dir", "keras_ids"),
        "ask a saved model": ("predict", "predict_file", "show", "checkpoint"),
    }
    HELP_NOTES: ClassVar = NOTES

    model: Literal["transformer", "convnet"] = "convnet"
    """Which model to train."""
    preset: Literal["best", "seed"] = "best"
    """Our best, or the tutorial to the letter (see --help-all)."""
    epochs: int | None = None
    """Passes over the training reviews; by default the preset's."""
    seeds: int = 1
    """Train so many models at once, each from its own seed."""
    data_dir: Path | None = None
    """A folder that holds aclImdb/ already, instead of a download; also ZOO_DATA_DIR."""
    keras_ids: Path | None = None
    """A folder with Keras's imdb.npz and imdb_word_index.json, whose words and ids are taken then."""
    show: tuple[int, ...] = ()
    """Show these reviews of the test, from 0, with what a saved model says of them and what is true: 0 500 600."""
    predict: str | None = None
    """Classify this text with a saved model instead of training one."""
    predict_file: Path | None = None
    """Classify each line of this file (UTF-8). Every line has one line of the answer, a blank one a blank one."""
    checkpoint: Path | None = None
    """The saved model; by default that of the newest run."""

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, 1, 1_000_000, "epochs")
        check_numbers(self, 1, 1_000, "seeds")
        check_numbers(self, 0, math.inf, "show")
        if self.predict is not None and self.predict_file is not None:
            raise ValueError("give either --predict or --predict-file, not both")
        if self.keras_ids is not None and self.preset == "seed" and self.model == "convnet":
            raise ValueError("--keras-ids are words, and the seed's ConvNet reads GPT-2's tokens of whole texts")


def main(arguments: Arguments) -> dict[str, Any]:
    """Train a classifier of film reviews on IMDB, or ask a saved one."""
    if arguments.predict is not None:
        return predict(arguments, [arguments.predict])
    if arguments.predict_file is not None:
        return predict(arguments, split_lines(load_text(arguments.predict_file)))
    return show(arguments) if arguments.show else train(arguments)


def load(arguments: Arguments) -> tuple[Imdb, list[str] | None]:
    """The reviews, and the words in the order of their ids if that is Keras's."""
    if arguments.keras_ids is None:
        return load_imdb(arguments.data_dir), None
    return load_keras_imdb(arguments.keras_ids, unpickle=read_inert_pickle)


def train(arguments: Arguments) -> dict[str, Any]:
    """Trains on 22,500 reviews, keeps the epoch that is best on 2,500 others, and tests it once on 25,000."""
    preset = PRESETS[arguments.model, arguments.preset]
    ensemble_size = None if arguments.seeds == 1 else arguments.seeds
    arguments.check_rows(preset.batch_size, EVALUATED, ensemble_size=ensemble_size)
    sharding = arguments.make_sharding()
    imdb, words = load(arguments)
    if words is not None:
        tokenizer = WordTokenizer(words[: preset.model.vocab_size - 3])  # three ids are special
    elif preset.tokenizer == "words":
        tokenizer = WordTokenizer.from_texts(imdb.train, preset.model.vocab_size)
    else:
        whole = BytePairTokenizer.named("gpt2", fetch_vocabulary("gpt2", arguments.data_dir))
        tokenizer = whole.compacted(imdb.train)
    ids = {
        name: tokenised(part, tokenizer).cut(preset.max_tokens, preset.truncation)
        for name, part in (("train", imdb.train), ("validation", imdb.validation), ("test", imdb.test))
    }
    train_batches = Buckets(
        {"tokens": ids["train"]},
        {"labels": imdb.train.labels},
        batch_size=preset.batch_size,
        bucket_boundaries={"tokens": preset.bucket_boundaries},
        seed=arguments.seed,
        shard=sharding.shard,
    )
    per_epoch = train_batches.batches_per_epoch
    steps = 5 if arguments.smoke else per_epoch * (arguments.epochs or preset.epochs)
    validation = _batches(ids["validation"], imdb.validation.labels, preset.bucket_boundaries, sharding.shard)
    model_key, fit_key = jax.random.split(jax.random.key(arguments.seed))

    config: Any = dataclasses.replace(preset.model, vocab_size=tokenizer.vocab_size)

    @eqx.filter_jit
    def make_model(key: Any) -> TransformerClassifier | TextConvNet:
        return MODELS[arguments.model](config, key=key)

    model = make_model(model_key)
    print(zoo.summary(model))
    if ensemble_size is not None:
        model = eqx.filter_vmap(make_model)(jax.random.split(model_key, ensemble_size))
    run = arguments.make_run("imdb_classifier")
    print(
        f"{len(imdb.train):,} reviews to learn from, {len(imdb.validation):,} to choose the best epoch, "
        f"{len(imdb.test):,} for the test ({imdb.duplicates} of them stand in the training part, too)\n"
        f"{steps / per_epoch:.3g} epochs of {per_epoch} steps -> {run.folder}"
    )

    places = np.array([0, 1, -2, -1]) % len(imdb.validation)
    shown, shown_ids = imdb.validation.take(places), ids["validation"].take(places)

    def sample(step: int, model: Any, metrics: dict[str, Any]) -> str:
        probabilities = classify(member(model, 0, ensemble_size), shown_ids, preset.bucket_boundaries)
        return "\n".join(
            f"{_verdict(text, p, CLASS_NAMES)}  ({CLASS_NAMES[label]})"
            for text, p, label in zip(shown, probabilities, shown.labels, strict=True)
        )

    optimiser = adamw(
        preset.learning_rate,
        total_steps=steps,
        warmup_steps=0 if preset.schedule == "constant" else steps // 10,
        schedule=preset.schedule,
        clip_norm=preset.clip_norm,
    )
    result = fit(
        init_state(model, optimiser, key=fit_key, ensemble_size=ensemble_size, sharding=sharding),
        prebatched(train_batches),
        classification_loss,
        optimiser,
        steps=steps,
        evaluation=Evaluation(validation, every=max(per_epoch // 2, 1), on_eval=sample),
        **arguments.fit_options(run, sharding, reviews=data_fingerprint(imdb)),
    )

    cut = {"max_tokens": preset.max_tokens, "truncation": preset.truncation}
    extra = {"tokenizer": tokenizer.to_json(), "class_names": CLASS_NAMES, **cut}
    model_file = run.path("model.safetensors")
    zoo.save(model_file, member(result.model, 0, ensemble_size), extra=extra)

    def predicted(models: Any) -> list[np.ndarray]:
        each = (member(models, i, ensemble_size) for i in range(arguments.seeds))
        return [classify(model, ids["test"], preset.bucket_boundaries).argmax(axis=1) for model in each]

    best, last = predicted(result.model), predicted(result.last)
    confusion = confusion_matrix(imdb.test.labels, best[0], len(CLASS_NAMES))
    accuracies = [float(np.mean(classes == imdb.test.labels)) for classes in best]
    accuracy, count = float(np.mean(accuracies)), len(imdb.test)
    metrics = {
        "test_accuracy": accuracy,
        "test_accuracy_interval": proportion_interval(round(accuracy * count), count),
        "last_test_accuracy": float(np.mean([np.mean(classes == imdb.test.labels) for classes in last])),
        "validation_loss": result.best_value,
        "best_epoch": (np.asarray(result.best_step) / per_epoch).tolist(),
        "confusion": confusion.tolist(),
    }
    if ensemble_size is not None:
        metrics["test_accuracy_each"] = accuracies
    low, high = metrics["test_accuracy_interval"]
    with may_fail("confusion.png could not be drawn"):
        title = f"test accuracy {accuracies[0]:.2%}"
        draw_confusion(run.path("confusion.png"), confusion, CLASS_NAMES, title=title)
    seconds = run.finish(result, metrics, differs_from_seed=preset.differs_from_seed or None)["seconds"]["total"]
    if ensemble_size is not None:
        print("  ".join(f"seed {i}: {accuracy:.2%}" for i, accuracy in enumerate(accuracies)))
    print(f"test accuracy {metrics['test_accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}), "
          f"best epoch {metrics['best_epoch']}, {metrics['last_test_accuracy']:.2%} after the last one, "
          f"{seconds:.0f} s in all")  # fmt: skip
    print(f'ask it: python examples/imdb_classifier.py --checkpoint {model_file} --predict "What a film!"')
    return metrics


def predict(arguments: Arguments, texts: list[str]) -> dict[str, Any]:
    """Prints the class of each text, and how sure a saved model is of it."""
    asked = [text for text in texts if text.strip()]
    if not asked:
        raise ValueError(f"{arguments.predict_file or '--predict'} has no text to classify")
    probabilities, class_names = ask(arguments, asked)
    verdicts = (_verdict(text, p, class_names) for text, p in zip(asked, probabilities, strict=True))
    for text in texts:
        print(next(verdicts) if text.strip() else "")
    return {"probabilities": probabilities.tolist()}


def show(arguments: Arguments) -> dict[str, Any]:
    """Prints reviews of the test part, the class that a saved model gives them, and the true one."""
    test = load(arguments)[0].test
    if max(arguments.show) >= len(test):
        raise ValueError(f"--show must be in 0..{len(test) - 1}; got {max(arguments.show)}")
    test = test.take(np.array(arguments.show))
    probabilities, class_names = ask(arguments, list(test))
    for text, p, label in zip(test, probabilities, test.labels, strict=True):
        print("\n".join(textwrap.wrap(text, 100)))
        print(f"predicted: {class_names[p.argmax()]} {p.max():.1%}\nactual: {class_names[label]}\n")
    return {"probabilities": probabilities.tolist(), "labels": test.labels.tolist()}


def ask(arguments: Arguments, texts: list[str]) -> tuple[Float[np.ndarray, "texts classes"], list[str]]:
    """The probability of each class for each text by a saved model, and the names of the classes."""
    checkpoint = arguments.checkpoint or newest_file("imdb_classifier", "model.safetensors")
    model, extra = zoo.load(checkpoint), zoo.read_extra(checkpoint)
    if not isinstance(model, (TransformerClassifier, TextConvNet)) or "class_names" not in extra:
        raise ValueError(f"--checkpoint must be a model that this example saved; got {checkpoint}")
    tokenizer: Tokenizer = tokenizer_from_json(extra["tokenizer"])
    encoded = [tokenizer.encode(text) for text in texts]
    for text, ids in zip(texts, encoded, strict=True):
        if len(ids) == 0:
            raise ValueError(f"there is no word to judge by in {text!r}")
    rows = Ragged.of(encoded, np.int32).cut(extra["max_tokens"], extra["truncation"])
    return classify(model, rows, (extra["max_tokens"],)), extra["class_names"]


@eqx.filter_jit
def _probabilities(model: Any, tokens: Any, lengths: Any) -> Any:
    return jax.nn.softmax(jax.vmap(model)(tokens, lengths))


def classify(model: Any, ids: Ragged, bucket_boundaries: tuple[int, ...]) -> Float[np.ndarray, "texts classes"]:
    """The probability of each class for each text."""
    model = eqx.nn.inference_mode(model)
    batches = Buckets(
        {"tokens": ids},
        {"row": np.arange(len(ids))},
        batch_size=min(256, len(ids)),
        bucket_boundaries={"tokens": bucket_boundaries},
        seed=None,
    )
    found: dict[int, Any] = {}
    for i in range(len(batches)):
        batch = batches[i]
        p = np.asarray(_probabilities(model, jnp.asarray(batch["tokens"]), jnp.asarray(batch["tokens_length"])))
        found |= dict(zip(batch["row"].tolist(), p, strict=True))
    return np.stack([found[row] for row in range(len(ids))])


def _batches(ids: Ragged, labels: np.ndarray, bucket_boundaries: tuple[int, ...], shard: tuple[int, int]) -> Any:
    """Every text once, for an evaluation."""
    source = Buckets(
        {"tokens": ids},
        {"labels": labels},
        batch_size=EVALUATED,
        bucket_boundaries={"tokens": bucket_boundaries},
        seed=None,
        shard=shard,
    )
    return prebatched(source, epochs=1)


def _verdict(text: str, probabilities: np.ndarray, class_names: Any) -> str:
    best = int(np.argmax(probabilities))
    line = " ".join(text.split())
    return f"  {class_names[best]} {probabilities[best]:6.1%} | {line if len(line) <= 90 else line[:89] + '…'}"


if __name__ == "__main__":
    cli(main)
