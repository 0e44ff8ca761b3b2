"""Tell whether a film review is positive, with a Transformer or a 1-D ConvNet trained on IMDB's 25,000 reviews.

python examples/imdb_classifier.py --model transformer
python examples/imdb_classifier.py --predict "I laughed, I cried, I want my money back."
"""

if __name__ == "__main__":  # first, because the imports take seconds
    from training import handle_sigterm

    handle_sigterm()

import dataclasses
import time
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
from data.pipeline import whole_batches
from data.ragged import Keep, Ragged
from data.text import load_text
from data.tokenizers import BytePairTokenizer, Tokenizer, WordTokenizer, tokenizer_from_json
from training import Options, Run, adamw, classification_loss, cli, fit, member, newest_file
from training.metrics import confusion_matrix, proportion_interval
from training.pictures import draw_confusion
from zoo import TextConvNet, TransformerClassifier


@dataclasses.dataclass(frozen=True)
class Preset:
    """How texts become ids, the model's arguments, and how it is trained."""

    tokenizer: Literal["words", "gpt2"]
    max_tokens: int
    keep: Keep
    edges: tuple[int, ...]
    model: dict[str, Any]
    epochs: int
    learning_rate: float
    vocab_size: int = 20_000
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = 0.0
    batch_size: int = 128


# Both drop whole words, and entries of all word vectors together, without which they learn the reviews by heart.
_DROPPED = {"unknown_id": WordTokenizer.unknown_id, "channel_dropout_p": 0.3}
_NGRAMS = {"ngram_orders": (1, 2, 3), "ngram_buckets": 2**22, "ngram_size": 4}
_BEST_CONVNET = {
    "embed_size": 80, "num_filters": 64, "branches": [[(2, 1)], [(3, 1)], [(4, 1)]], "use_norm": False,
    "pool_embedding": True, "hidden_size": None, "embedding_dropout_p": 0.0, "dropout_p": 0.5,
    "token_dropout_p": 0.25, **_DROPPED, **_NGRAMS,
}  # fmt: skip
_BEST_TRANSFORMER = {
    "embed_size": 16, "num_layers": 1, "num_heads": 2, "mlp_size": 32, "max_length": 512, "positions": "none",
    "pre_norm": True, "pooling": "mean", "hidden_size": None, "dropout_p": 0.3,
    "head_dropout_p": 0.5, "token_dropout_p": 0.2, **_DROPPED, **_NGRAMS,
}  # fmt: skip
PRESETS = {
    ("transformer", "best"): Preset("words", 512, "ends", (128, 192, 288, 512), _BEST_TRANSFORMER, 4, 2e-3, 30_000),
    ("convnet", "best"): Preset("words", 512, "ends", (128, 192, 288, 512), _BEST_CONVNET, 5, 2e-3, 30_000),
    ("transformer", "seed"): Preset("words", 200, "last", (100, 150, 200), {}, 3, 1e-3),
    ("convnet", "seed"): Preset("gpt2", 500, "first", (160, 224, 320, 500), {}, 10, 5e-4, schedule="constant"),
}
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
    """Classify each line of this file."""
    checkpoint: Path | None = None
    """The saved model to ask; by default that of the newest run in runs/imdb_classifier."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("epochs", "seeds"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.predict is not None and self.predict_file is not None:
            raise ValueError("give either --predict or --predict-file, not both")


def main(arguments: Arguments) -> dict[str, Any]:
    """Train a classifier of film reviews on IMDB, or ask a saved one."""
    if arguments.predict is not None:
        return predict(arguments, [arguments.predict])
    if arguments.predict_file is not None:
        return predict(arguments, [line for line in load_text(arguments.predict_file).splitlines() if line.strip()])
    return train(arguments)


def train(arguments: Arguments) -> dict[str, Any]:
    """Trains on 22,500 reviews, keeps the epoch that is best on 2,500 others, and tests it once on 25,000."""
    begun = time.perf_counter()
    sharding, shard = arguments.sharding, arguments.shard
    preset = PRESETS[arguments.model, arguments.preset]
    imdb = load_imdb(arguments.data_dir)
    if preset.tokenizer == "words":
        tokenizer = WordTokenizer.from_texts(imdb.train, preset.vocab_size)
    else:
        tokenizer = BytePairTokenizer.named("gpt2", arguments.data_dir).compacted(imdb.train)
    ids = {
        name: tokenised(part, tokenizer).cut(preset.max_tokens, preset.keep)
        for name, part in (("train", imdb.train), ("validation", imdb.validation), ("test", imdb.test))
    }
    train_batches = Buckets(
        {"tokens": ids["train"]},
        {"labels": imdb.train.labels},
        batch_size=preset.batch_size,
        edges={"tokens": preset.edges},
        seed=arguments.seed,
        shard=shard,
    )
    per_epoch = train_batches.batches_per_epoch
    steps = 5 if arguments.smoke else per_epoch * (arguments.epochs or preset.epochs)
    validation = _batches(ids["validation"], imdb.validation.labels, preset.edges, shard)
    model_key, fit_key = jax.random.split(jax.random.key(arguments.seed))

    @eqx.filter_jit
    def make_model(key: Any) -> TransformerClassifier | TextConvNet:
        return MODELS[arguments.model](tokenizer.vocab_size, len(CLASS_NAMES), **preset.model, key=key)

    members = None if arguments.seeds == 1 else arguments.seeds
    model = make_model(model_key)
    print(zoo.summary(model))
    if members is not None:
        model = eqx.filter_vmap(make_model)(jax.random.split(model_key, members))
    run = Run("imdb_classifier", arguments.out, arguments=arguments, resume=arguments.resume)
    print(
        f"{len(imdb.train):,} reviews to learn from, {len(imdb.validation):,} to choose the best epoch, "
        f"{len(imdb.test):,} for the test ({imdb.duplicates} of them stand in the training part, too)\n"
        f"{steps / per_epoch:.3g} epochs of {per_epoch} steps -> {run.folder}"
    )

    def show(step: int, model: Any, metrics: dict[str, Any]) -> str:
        shown = [0, 1, len(imdb.validation) - 2, len(imdb.validation) - 1]
        probabilities = classify(member(model, 0, members), ids["validation"].take(np.array(shown)), preset.edges)
        return "\n".join(
            _verdict(imdb.validation[i], p, CLASS_NAMES) for i, p in zip(shown, probabilities, strict=True)
        )

    result = fit(
        model,
        whole_batches(train_batches),
        classification_loss,
        adamw(
            preset.learning_rate,
            total_steps=steps,
            warmup_steps=0 if preset.schedule == "constant" else steps // 10,
            schedule=preset.schedule,
            weight_decay=preset.weight_decay,
        ),
        steps=steps,
        key=fit_key,
        members=members,
        evaluation=validation,
        eval_every=max(per_epoch // 2, 1),
        on_eval=show,
        run=run,
        checkpoints=arguments.checkpoints(run, reviews=len(imdb.train)),
        accumulate=arguments.accumulate,
        precision=arguments.precision,
        sharding=sharding,
    )

    testing = time.perf_counter()
    correct, predicted = [], np.zeros(0, np.int64)
    for i in reversed(range(arguments.seeds)):
        predicted = classify(member(result.model, i, members), ids["test"], preset.edges).argmax(axis=1)
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
    if members is not None:
        metrics["test_accuracy_each"] = accuracies
    extra = {
        "tokenizer": tokenizer.to_json(),
        "class_names": CLASS_NAMES,
        "max_tokens": preset.max_tokens,
        "keep": preset.keep,
    }
    model_file = run.path("model.safetensors")
    zoo.save(model_file, member(result.model, 0, members), extra=extra)
    low, high = metrics["test_accuracy_interval"]
    title = f"test accuracy {accuracies[0]:.2%}"
    draw_confusion(run.path("confusion.png"), confusion, CLASS_NAMES, title=title)
    ended = time.perf_counter()
    run.finish(
        metrics=metrics,
        steps=result.steps,
        seconds=result.seconds | {"test": ended - testing, "total": ended - begun},
        parameters=zoo.count_parameters(model) // arguments.seeds,
        history=result.history,
    )
    if members is not None:
        print("  ".join(f"seed {i}: {accuracy:.2%}" for i, accuracy in enumerate(accuracies)))
    print(f"test accuracy {metrics['test_accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}), "
          f"best epoch {metrics['best_epoch']}, {ended - begun:.0f} s in all")  # fmt: skip
    print(f'ask it: python examples/imdb_classifier.py --checkpoint {model_file} --predict "What a film!"')
    return metrics


def predict(arguments: Arguments, texts: list[str]) -> dict[str, Any]:
    """Prints the class of each text, and how sure a saved model is of it."""
    checkpoint = arguments.checkpoint or newest_file("imdb_classifier", "model.safetensors")
    model, extra = zoo.load(checkpoint), zoo.read_extra(checkpoint)
    if not isinstance(model, (TransformerClassifier, TextConvNet)) or "class_names" not in extra:
        raise ValueError(f"--checkpoint must be a model that this example saved; got {checkpoint}")
    tokenizer: Tokenizer = tokenizer_from_json(extra["tokenizer"])
    encoded = [tokenizer.encode(text) for text in texts]
    for text, ids in zip(texts, encoded, strict=True):
        if len(ids) == 0:
            raise ValueError(f"there is no word to judge by in {text!r}")
    if not texts:
        raise ValueError(f"{arguments.predict_file} has no text to classify")
    rows = Ragged.of(encoded, np.int32).cut(extra["max_tokens"], extra["keep"])
    probabilities = classify(model, rows, (extra["max_tokens"],))
    for text, p in zip(texts, probabilities, strict=True):
        print(_verdict(text, p, extra["class_names"]))
    return {"probabilities": probabilities.tolist()}


@eqx.filter_jit
def _probabilities(model: Any, tokens: Any, lengths: Any) -> Any:
    return jax.nn.softmax(jax.vmap(model)(tokens, lengths))


def classify(model: Any, ids: Ragged, edges: tuple[int, ...]) -> Float[np.ndarray, "texts classes"]:
    """The probability of each class for each text."""
    model = eqx.nn.inference_mode(model)
    batches = Buckets(
        {"tokens": ids},
        {"row": np.arange(len(ids))},
        batch_size=min(256, len(ids)),
        edges={"tokens": edges},
        seed=None,
    )
    found: dict[int, Any] = {}
    for i in range(len(batches)):
        batch = batches[i]
        p = np.asarray(_probabilities(model, jnp.asarray(batch["tokens"]), jnp.asarray(batch["tokens_length"])))
        found |= dict(zip(batch["row"].tolist(), p, strict=True))
    return np.stack([found[row] for row in range(len(ids))])


def _batches(ids: Ragged, labels: np.ndarray, edges: tuple[int, ...], shard: tuple[int, int]) -> Any:
    """Every text once, for an evaluation."""
    source = Buckets(
        {"tokens": ids}, {"labels": labels}, batch_size=256, edges={"tokens": edges}, seed=None, shard=shard
    )
    return whole_batches(source, epochs=1)


def _verdict(text: str, probabilities: np.ndarray, class_names: Any) -> str:
    best = int(np.argmax(probabilities))
    line = " ".join(text.split())
    return f"  {class_names[best]} {probabilities[best]:6.1%} | {line if len(line) <= 90 else line[:89] + '…'}"


if __name__ == "__main__":
    cli(main)
