"""Tell whether a film review is positive, with a Transformer or a 1-D ConvNet trained on IMDB's 25,000 reviews.

python examples/imdb_classifier.py --model transformer
python examples/imdb_classifier.py --predict "I laughed, I cried, I want my money back."
"""

if __name__ == "__main__":  # first, because the imports take seconds
    from training import handle_sigterm

    handle_sigterm()

import dataclasses
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import zoo
from data.buckets import Buckets
from data.imdb import CLASS_NAMES, load_imdb, tokenised
from data.pipeline import prebatched
from data.ragged import Ragged, Truncation
from data.text import load_text, split_lines
from data.vocabularies import fetch_vocabulary
from training import Evaluation, Options, adamw, classification_loss, cli, fit, init_state, member, newest_file
from training.launch.options import check_numbers
from training.metrics import confusion_matrix, proportion_interval
from training.reporting.plots import write_figure
from training.reporting.run import may_fail
from training.saving.fingerprint import data_fingerprint
from zoo import TextConvNet, TextConvNetConfig, TransformerClassifier, TransformerClassifierConfig
from zoo.text import BytePairTokenizer, Tokenizer, WordTokenizer, tokenizer_from_json


@dataclasses.dataclass(frozen=True)
class Preset:
    """How texts become ids, the model's arguments, and how it is trained."""

    tokenizer: Literal["words", "gpt2"]
    max_tokens: int
    truncation: Truncation
    bucket_boundaries: tuple[int, ...]
    model: TransformerClassifierConfig | TextConvNetConfig
    """With the most words that a vocabulary of words takes; one of byte pairs is compacted to those that occur."""
    epochs: int
    learning_rate: float
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = 0.0
    batch_size: int = 128


# Both drop whole words, and entries of all word vectors together, without which they learn the reviews by heart.
_DROPPED: Any = {"unknown_id": WordTokenizer.unknown_id, "channel_dropout_p": 0.3}
_NGRAMS: Any = {"ngram_orders": (1, 2, 3), "ngram_buckets": 2**22, "ngram_size": 4}
_BEST_CONVNET = TextConvNetConfig(
    vocab_size=30_000, num_classes=2, embed_size=80, num_filters=64, branches=(((2, 1),), ((3, 1),), ((4, 1),)),
    use_norm=False, pool_embedding=True, hidden_size=None, embedding_dropout_p=0.0, dropout_p=0.5,
    token_dropout_p=0.25, **_DROPPED, **_NGRAMS,
)  # fmt: skip
_BEST_TRANSFORMER = TransformerClassifierConfig(
    vocab_size=30_000, num_classes=2, embed_size=16, num_layers=1, num_heads=2, mlp_size=32, max_length=512,
    positions="none", pre_norm=True, pooling="mean", hidden_size=None, dropout_p=0.3, head_dropout_p=0.5,
    token_dropout_p=0.2, **_DROPPED, **_NGRAMS,
)  # fmt: skip
_SEED_CONVNET = TextConvNetConfig(vocab_size=50_257, num_classes=2)
_SEED_TRANSFORMER = TransformerClassifierConfig(vocab_size=20_000, num_classes=2)
PRESETS = {
    ("transformer", "best"): Preset("words", 512, "both", (128, 192, 288, 512), _BEST_TRANSFORMER, 4, 2e-3),
    ("convnet", "best"): Preset("words", 512, "both", (128, 192, 288, 512), _BEST_CONVNET, 5, 2e-3),
    ("transformer", "seed"): Preset("words", 200, "tail", (100, 150, 200), _SEED_TRANSFORMER, 3, 1e-3),
    ("convnet", "seed"): Preset("gpt2", 500, "head", (160, 224, 320, 500), _SEED_CONVNET, 10, 5e-4, "constant"),
}
EVALUATED = 256  # reviews of an evaluation at a time
MODELS = {"transformer": TransformerClassifier, "convnet": TextConvNet}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Train a classifier of film reviews, or ask a saved one."""

    model: Literal["transformer", "convnet"] = "convnet"
    """Which model to train."""
    preset: Literal["best", "seed"] = "best"
    """Our best, or the seed's sizes and hyper-parameters."""
    epochs: int | None = None
    """Passes over the training reviews; by default the preset's."""
    seeds: int = 1
    """Train so many models at once, from different seeds, and report each."""
    data_dir: Path | None = None
    """A folder that holds aclImdb/ already, instead of a download; also ZOO_DATA_DIR."""
    predict: str | None = None
    """Classify this text with a saved model instead of training one."""
    predict_file: Path | None = None
    """Classify each line of this file (UTF-8). Every line has one line of the answer, a blank one a blank one."""
    checkpoint: Path | None = None
    """The saved model to ask; by default that of the newest run in runs/imdb_classifier."""

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self, 1, 1_000_000, "epochs")
        check_numbers(self, 1, 1_000, "seeds")
        if self.predict is not None and self.predict_file is not None:
            raise ValueError("give either --predict or --predict-file, not both")


def main(arguments: Arguments) -> dict[str, Any]:
    """Train a classifier of film reviews on IMDB, or ask a saved one."""
    if arguments.predict is not None:
        return predict(arguments, [arguments.predict])
    if arguments.predict_file is not None:
        return predict(arguments, split_lines(load_text(arguments.predict_file)))
    return train(arguments)


def train(arguments: Arguments) -> dict[str, Any]:
    """Trains on 22,500 reviews, keeps the epoch that is best on 2,500 others, and tests it once on 25,000."""
    preset = PRESETS[arguments.model, arguments.preset]
    ensemble_size = None if arguments.seeds == 1 else arguments.seeds
    arguments.check_rows(preset.batch_size, EVALUATED, ensemble_size=ensemble_size)
    sharding = arguments.make_sharding()
    imdb = load_imdb(arguments.data_dir)
    if preset.tokenizer == "words":
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

    def show(step: int, model: Any, metrics: dict[str, Any]) -> str:
        shown = [0, 1, len(imdb.validation) - 2, len(imdb.validation) - 1]
        rows = ids["validation"].take(np.array(shown))
        probabilities = classify(member(model, 0, ensemble_size), rows, preset.bucket_boundaries)
        return "\n".join(
            _verdict(imdb.validation[i], p, CLASS_NAMES) for i, p in zip(shown, probabilities, strict=True)
        )

    optimiser = adamw(
        preset.learning_rate,
        total_steps=steps,
        warmup_steps=0 if preset.schedule == "constant" else steps // 10,
        schedule=preset.schedule,
        weight_decay=preset.weight_decay,
        clip_norm=1.0,
    )
    result = fit(
        init_state(model, optimiser, key=fit_key, ensemble_size=ensemble_size, sharding=sharding),
        prebatched(train_batches),
        classification_loss,
        optimiser,
        steps=steps,
        evaluation=Evaluation(validation, every=max(per_epoch // 2, 1), on_eval=show),
        **arguments.fit_options(run, sharding, reviews=data_fingerprint(imdb)),
    )

    cut = {"max_tokens": preset.max_tokens, "truncation": preset.truncation}
    extra = {"tokenizer": tokenizer.to_json(), "class_names": CLASS_NAMES, **cut}
    model_file = run.path("model.safetensors")
    zoo.save(model_file, member(result.model, 0, ensemble_size), extra=extra)
    correct, predicted = [], np.zeros(0, np.int64)
    for i in reversed(range(arguments.seeds)):
        model = member(result.model, i, ensemble_size)
        predicted = classify(model, ids["test"], preset.bucket_boundaries).argmax(axis=1)
        correct.insert(0, int(np.sum(predicted == imdb.test.labels)))
    confusion = confusion_matrix(imdb.test.labels, predicted, len(CLASS_NAMES))
    accuracies = [count / len(imdb.test) for count in correct]
    metrics = {
        "test_accuracy": float(np.mean(accuracies)),
        "test_accuracy_interval": proportion_interval(round(np.mean(correct)), len(imdb.test)),
        "validation_loss": result.best_value,
        "best_epoch": (np.asarray(result.best_step) / per_epoch).tolist(),
        "confusion": confusion.tolist(),
    }
    if ensemble_size is not None:
        metrics["test_accuracy_each"] = accuracies
    low, high = metrics["test_accuracy_interval"]
    with may_fail("confusion.png could not be drawn"):
        _draw_confusion(run.path("confusion.png"), confusion, f"test accuracy {accuracies[0]:.2%}")
    seconds = run.finish(result, metrics)["seconds"]["total"]
    if ensemble_size is not None:
        print("  ".join(f"seed {i}: {accuracy:.2%}" for i, accuracy in enumerate(accuracies)))
    print(f"test accuracy {metrics['test_accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}), "
          f"best epoch {metrics['best_epoch']}, {seconds:.0f} s in all")  # fmt: skip
    print(f'ask it: python examples/imdb_classifier.py --checkpoint {model_file} --predict "What a film!"')
    return metrics


def predict(arguments: Arguments, texts: list[str]) -> dict[str, Any]:
    """Prints the class of each text, and how sure a saved model is of it."""
    checkpoint = arguments.checkpoint or newest_file("imdb_classifier", "model.safetensors")
    model, extra = zoo.load(checkpoint), zoo.read_extra(checkpoint)
    if not isinstance(model, (TransformerClassifier, TextConvNet)) or "class_names" not in extra:
        raise ValueError(f"--checkpoint must be a model that this example saved; got {checkpoint}")
    tokenizer: Tokenizer = tokenizer_from_json(extra["tokenizer"])
    asked = [text for text in texts if text.strip()]
    if not asked:
        raise ValueError(f"{arguments.predict_file or '--predict'} has no text to classify")
    encoded = [tokenizer.encode(text) for text in asked]
    for text, ids in zip(asked, encoded, strict=True):
        if len(ids) == 0:
            raise ValueError(f"there is no word to judge by in {text!r}")
    rows = Ragged.of(encoded, np.int32).cut(extra["max_tokens"], extra["truncation"])
    probabilities = classify(model, rows, (extra["max_tokens"],))
    verdicts = (_verdict(text, p, extra["class_names"]) for text, p in zip(asked, probabilities, strict=True))
    for text in texts:
        print(next(verdicts) if text.strip() else "")
    return {"probabilities": probabilities.tolist()}


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


def _draw_confusion(path: Path, matrix: np.ndarray, title: str) -> None:
    """How many texts of each class (rows) were taken for which (columns), and the share of the row."""
    from matplotlib.figure import Figure

    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(4.4, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        colour = "white" if shares[row, column] > 0.6 else "black"
        text = f"{matrix[row, column]:,}\n{shares[row, column]:.1%}"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(CLASS_NAMES)), CLASS_NAMES)
    axes.set_yticks(range(len(CLASS_NAMES)), CLASS_NAMES, rotation=90, va="center")
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, fontsize=10)
    write_figure(path, figure)


if __name__ == "__main__":
    cli(main)
