"""What is reported of a classifier: figures of a test, lines and a picture, and the class of each line of a file."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data.labelled import LabelledTexts
from examples.pictures import draw_looks
from examples.with_bar import ask_lines
from training import Run, may_fail
from training.metrics import confusion_matrix, proportion_interval
from training.reporting.plots import draw_confusion
from zoo.text import Classifier


def figures_of_the_test(
    test: LabelledTexts, best: Sequence[Int[np.ndarray, " texts"]], last: Sequence[Int[np.ndarray, " texts"]]
) -> dict[str, Any]:
    """What there is to report of the classes that models of one or several seeds gave to the texts of the test.

    Args:
        test: the texts and their true classes.
        best, last: classes by the best model of each seed, and by its last one.
    """
    of_best, of_last = ([float(np.mean(classes == test.labels)) for classes in each] for each in (best, last))
    accuracy, count = float(np.mean(of_best)), len(test)
    figures = {
        "test_accuracy": accuracy,
        "test_accuracy_interval": proportion_interval(round(accuracy * count), count),
        "last_test_accuracy": float(np.mean(of_last)),
        "confusion": confusion_matrix(test.labels, best[0], len(test.class_names)).tolist(),
    }
    return figures | ({"test_accuracy_each": of_best} if len(best) > 1 else {})


def draw_figures(run: Run, figures: dict[str, Any], classifier: Classifier, text: str) -> None:
    """The first model's confusion of classes, and where it looks in a text, if it has attention."""
    confusion = np.array(figures["confusion"])
    share = np.trace(confusion) / confusion.sum()
    with may_fail("confusion.png could not be drawn"):
        path = run.path("confusion.png")
        draw_confusion(path, confusion, classifier.class_names, title=f"test accuracy {share:.2%}")
    if hasattr(classifier.model, "attention_weights"):
        with may_fail("attention.png could not be drawn"):
            draw_looks(run.path("attention.png"), classifier.model, classifier.tokenizer, text)


def print_figures(figures: dict[str, Any], seconds: float) -> None:
    """In two lines, or three for several seeds."""
    if each := figures.get("test_accuracy_each"):
        print("  ".join(f"seed {i}: {accuracy:.2%}" for i, accuracy in enumerate(each)))
    low, high = figures["test_accuracy_interval"]
    print(
        f"test accuracy {figures['test_accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}), "
        f"best epoch {figures['best_epoch']}, {figures['last_test_accuracy']:.2%} after the last one, "
        f"{seconds:.0f} s in all"
    )


def verdict(text: str, probabilities: Float[np.ndarray, " classes"], class_names: Sequence[str]) -> str:
    """The likeliest class of a text, and how it begins."""
    best = int(np.argmax(probabilities))
    line = " ".join(text.split())
    return f"  {class_names[best]} {probabilities[best]:6.1%} | {line if len(line) <= 90 else line[:89] + '…'}"


def print_classes(classifier: Classifier, lines: Sequence[str], where: str) -> dict[str, Any]:
    """Prints the class of each line, and how sure a classifier is of it; see `ask_lines`."""
    answers = ask_lines(classifier.probabilities, lines, where, "classify", encode=classifier.tokenizer.encode)
    for line, p in zip(lines, answers, strict=True):
        print("" if p is None else verdict(line, p, classifier.class_names))
    return {"probabilities": [p.tolist() for p in answers if p is not None]}
