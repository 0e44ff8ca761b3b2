"""An n-gram baseline for character models: interpolated Kneser-Ney smoothing."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer


class KneserNey:
    """Maps the tokens so far to the probability of the next one, from counts of n-grams.

    Each order subtracts a discount from every count and spreads what that frees by the next lower order, whose
    counts are not of occurrences but of different tokens seen before (continuations); the lowest is uniform.
    Counts of 1, of 2 and of more have discounts of their own. No probability is 0.

    References: Kneser & Ney, "Improved Backing-off for M-gram Language Modeling", 1995; Chen & Goodman, "An
    Empirical Study of Smoothing Techniques for Language Modeling", 1998, section 3, for the three discounts.

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
        # By order, longest first: successors of each context with their counts, and the discounts.
        self._levels: list[tuple[dict[tuple[int, ...], dict[int, int]], list[float]]] = []
        while True:
            successors: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
            for gram, count in counts.items():
                successors[gram[:-1]][gram[-1]] = count
            self._levels.append((successors, _discounts(list(counts.values()))))
            if len(next(iter(counts))) == 1:
                break
            shorter: dict[tuple[int, ...], int] = defaultdict(int)
            for gram in counts:
                shorter[gram[1:]] += 1  # in how many different ways the rest is preceded
            counts = shorter

    def probability(self, context: Sequence[int], token: int) -> float:
        """Of `token` after `context`, of which the last `order - 1` tokens count."""
        result = 1.0 / self.vocab_size
        for length, (successors, discounts) in zip(range(self.order), reversed(self._levels), strict=True):
            seen = successors.get(tuple(context[len(context) - length :])) if length <= len(context) else None
            if not seen:
                break
            freed = sum(discounts[min(count, 3)] for count in seen.values())
            count = seen.get(token, 0)
            result = (count - discounts[min(count, 3)] + freed * result) / sum(seen.values())
        return result

    def bits(self, ids: Integer[np.ndarray, " n"], before: Integer[np.ndarray, " m"]) -> float:
        """Bits per token of a text that continues another one."""
        context = [*before[-(self.order - 1) :].tolist(), *ids.tolist()] if self.order > 1 else ids.tolist()
        first = len(context) - len(ids)
        nats = sum(
            -math.log(self.probability(context[max(0, i - self.order + 1) : i], context[i]))
            for i in range(first, len(context))
        )
        return nats / len(ids) / math.log(2)


def _discounts(counts: list[int]) -> list[float]:
    """What is subtracted from a count of 0, 1, 2, and 3 or more.

    Half of it where the estimate is of no use, because there are no such counts (as KenLM's fallback has it) or not
    above 0: a discount of 0 would free nothing for what was never seen.
    """
    n1, n2, n3, n4 = (sum(count == n for count in counts) for n in (1, 2, 3, 4))
    share = n1 / (n1 + 2 * n2) if n1 else 0.0
    pairs = ((1, n1, n2), (2, n2, n3), (3, n3, n4))
    estimates = [k - (k + 1) * share * above / n if n else 0.0 for k, n, above in pairs]
    return [0.0, *(estimate if estimate > 0 else k / 2 for k, estimate in enumerate(estimates, start=1))]
