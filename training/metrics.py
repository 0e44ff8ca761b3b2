"""Figures that people read, made of mean losses, logits and answers."""

import functools
import unicodedata
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from training.losses import check_shapes


def accuracy(
    logits: Float[Array, "*shape vocab"],
    targets: Int[Array | np.ndarray, "*shape"],
    weights: Float[Array | np.ndarray, "*shape"],
) -> Float[Array, ""]:
    """Weighted share, in 0..1, of the targets that have the largest logit; 0 when all weights are 0.

    Raises:
        ValueError: not one target and one weight for each row of logits.

    Example:
        >>> logits = jnp.array([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
        >>> float(accuracy(logits, np.array([0, 1, 0]), np.array([1.0, 1.0, 0.0])))
        0.5
    """
    logits, targets, weights = jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(weights, jnp.float32)
    check_shapes(logits.shape[:-1], targets.shape, weights.shape)
    total = jnp.sum(weights)
    return jnp.sum(weights * (jnp.argmax(logits, axis=-1) == targets)) / jnp.where(total > 0, total, 1.0)


def perplexity(nats: float) -> float:
    """exp of a mean loss in nats: the number of equally likely choices that would be as hard to guess.

    Example:
        >>> round(perplexity(float(np.log(50))), 6)
        50.0
    """
    with np.errstate(over="ignore"):
        return float(np.exp(nats))


def bits(nats: float) -> float:
    """A mean loss in nats, in bits; of characters, these are bits per character.

    Example:
        >>> round(bits(float(np.log(8))), 6)
        3.0
    """
    return float(nats / np.log(2))


def exact_match(
    predicted: Int[Array | np.ndarray, "n length"], expected: Int[Array | np.ndarray, "n length"]
) -> float:
    """Share, in 0..1, of the rows that agree in every entry.

    Raises:
        ValueError: there is no row.

    Example:
        >>> exact_match(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]]))
        0.5
    """
    predicted, expected = np.asarray(predicted), np.asarray(expected)
    if predicted.shape != expected.shape or len(expected) == 0:
        raise ValueError(
            "predicted and expected must be of one shape with at least one row; "
            f"got {predicted.shape} and {expected.shape}"
        )
    return float(np.mean(np.all(predicted == expected, axis=1)))


def proportion_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share, after Wilson (1927): it stays within 0..1, also for few trials.

    Raises:
        ValueError: there is no trial, or not 0 <= successes <= trials.

    Example:
        >>> [round(bound, 3) for bound in proportion_interval(90, 100)]
        [0.826, 0.945]
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"successes must be in 0..trials, and trials at least 1; got {successes} of {trials}")
    z, share = 1.959964, successes / trials
    middle = share + z**2 / (2 * trials)
    reach = z * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    low, high = (float((middle + sign * reach) / (1 + z**2 / trials)) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def confusion_matrix(
    labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], num_classes: int
) -> Int[np.ndarray, "{num_classes} {num_classes}"]:
    """How many of class i (row) were taken for class j (column).

    Raises:
        ValueError: a class outside 0..num_classes - 1.

    Example:
        >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    for name, classes in (("labels", labels), ("predicted", predicted)):
        wrong = (np.asarray(classes) < 0) | (np.asarray(classes) >= num_classes)
        if np.any(wrong):
            raise ValueError(f"{name} must be in 0..{num_classes - 1}; got {np.asarray(classes)[wrong][0]}")
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def bleu_and_chrf(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """BLEU and chrF by sacrebleu (both in 0..100), with the signatures that tell how it counted.

    All are compared in Unicode's normal form C, so that no accent is wrong for being a character of its own.

    Args:
        written: a translation of each sentence.
        references: all that are right for it, at least one.

    Raises:
        ValueError: there is no sentence, not one list of references for each, or an empty one, or a string in the
            place of a list.

    Example:
        >>> round(bleu_and_chrf(["el perro ve al gato"], [["un perro ve al gato", "el perro mira"]])["bleu"], 1)
        76.0
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    # A string is a sequence of strings, too: its characters.
    if isinstance(written, str) or not all(isinstance(text, str) for text in written):
        raise ValueError(f"written must be a list of strings; got {written!r:.60}")
    for right in references:
        if isinstance(right, str) or not all(isinstance(text, str) for text in right):
            raise ValueError(f"references must have a list of strings for each translation; got {right!r:.60}")
    if not written or len(written) != len(references) or not all(references):
        raise ValueError(f"{len(written)} translations, at least one, need as many references; got {len(references)}")
    normal = functools.partial(unicodedata.normalize, "NFC")
    most = max(map(len, references))
    streams: Any = [[normal(r[i]) if i < len(r) else None for r in references] for i in range(most)]
    texts = list(map(normal, written))
    bleu, chrf = BLEU(), CHRF()
    return {
        "bleu": bleu.corpus_score(texts, streams).score,
        "chrf": chrf.corpus_score(texts, streams).score,
        "signature_bleu": f"BLEU|{bleu.get_signature()}",
        "signature_chrf": f"chrF2|{chrf.get_signature()}",
    }
