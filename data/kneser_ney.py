"""An n-gram model with interpolated Kneser-Ney smoothing: the mark that a neural model of a text has to pass."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer


class KneserNey:
    """Maps the tokens so far to the probability of the next one, from counts of n-grams.

    Each order subtracts a discount from every count and spreads what that frees by the next lower order, whose
    counts are not of occurrences but of different tokens seen before (continuations); the lowest is uniform.

    References: Kneser & Ney, "Improved Backing-off for M-gram Language Modeling", 1995; Chen & Goodman, "An
    Empirical Study of Smoothing Techniques for Language Modeling", 1998, for the discount n1 / (n1 + 2 n2).

    Args:
        ids: the tokens to count in.
        vocab_size: number of different tokens.
        order: length of the longest n-grams, at least 1.

    Raises:
        ValueError: an argument is out of its range, or there are fewer tokens than `order`.

    Example:
        >>> model = KneserNey(np.array([0, 1, 2] * 20), vocab_size=3, order=3)
        >>> model.probability([0, 1], 2) > 0.9
        True
        >>> round(sum(model.probability([2, 2], token) for token in range(3)), 6)
        1.0
    """

    def __init__(self, ids: Integer[np.ndarray, " n"], vocab_size: int, order: int = 6):
        if order < 1:
            raise ValueError(f"order must be at least 1; got {order}")
        if len(ids) < order:
            raise ValueError(f"there must be at least order ({order}) tokens; got {len(ids)}")
        self.vocab_size = vocab_size
        self.order = order
        tokens = ids.tolist()
        counts: dict[tuple[int, ...], int] = defaultdict(int)
        for i in range(len(tokens) - order + 1):
            counts[tuple(tokens[i : i + order])] += 1
        # By order, longest first: successors of each context with their counts, and the discount.
        self._levels: list[tuple[dict[tuple[int, ...], dict[int, int]], float]] = []
        while True:
            successors: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
            for gram, count in counts.items():
                successors[gram[:-1]][gram[-1]] = count
            once, twice = (sum(count == n for count in counts.values()) for n in (1, 2))
            self._levels.append((successors, once / (once + 2 * twice) if once else 0.5))
            if len(next(iter(counts))) == 1:
                break
            shorter: dict[tuple[int, ...], int] = defaultdict(int)
            for gram in counts:
                shorter[gram[1:]] += 1  # in how many different ways the rest is preceded
            counts = shorter

    def probability(self, context: Sequence[int], token: int) -> float:
        """Of `token` after `context`, of which the last `order - 1` tokens count."""
        result = 1.0 / self.vocab_size
        for length, (successors, discount) in zip(range(self.order), reversed(self._levels), strict=True):
            seen = successors.get(tuple(context[len(context) - length :])) if length <= len(context) else None
            if not seen:
                break
            total = sum(seen.values())
            result = (max(seen.get(token, 0) - discount, 0.0) + discount * len(seen) * result) / total
        return result

    def bits(self, ids: Integer[np.ndarray, " n"], before: Integer[np.ndarray, " m"]) -> float:
        """Bits per token of a text that goes on from another one."""
        context = [*before[-(self.order - 1) :].tolist(), *ids.tolist()] if self.order > 1 else ids.tolist()
        first = len(context) - len(ids)
        nats = sum(
            -math.log(self.probability(context[max(0, i - self.order + 1) : i], context[i]))
            for i in range(first, len(context))
        )
        return nats / len(ids) / math.log(2)
