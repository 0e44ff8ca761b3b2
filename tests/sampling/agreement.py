"""When do two ways to run one row agree? The promise of the design, written once.

A row draws the same random numbers and its logits agree to 1e-5 however it is run. Its tokens are the same up to the
first tie: a step whose two best perturbed scores (logits / temperature + noise) are closer than 1e-4.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from decoders import LENGTH, Subject

TIE = 1e-4


@dataclasses.dataclass
class Row:
    """One row by the slowest way: the whole sequence again for each token.

    Attributes:
        tokens: the new ones, up to a stop id.
        log_probs: of each, under the model.
        gaps: between the two best perturbed scores at each step.
    """

    tokens: list[int]
    log_probs: list[float]
    gaps: list[float]


@eqx.filter_jit
def _choose(logits, temperature, key, t):
    noise = jax.random.gumbel(jax.random.fold_in(key, t), logits.shape)
    scores = jnp.where(temperature == 0, logits, logits / jnp.where(temperature == 0, 1.0, temperature) + noise)
    return scores, jax.nn.log_softmax(logits)


def naive(subject: Subject, prompt, max_new_tokens, temperature=0.0, key=None, stop_ids=(), length=LENGTH) -> Row:
    """What `generate` must give for one prompt whose row key is `key`."""
    key = jax.random.key(0) if key is None else key
    context, row = list(prompt), Row([], [], [])
    for t in range(max_new_tokens):
        padded = np.zeros(length, np.int32)
        padded[: len(context)] = context
        logits = np.asarray(subject.forward(jnp.asarray(padded)))[len(context) - 1]
        scores, log_probs = map(np.asarray, _choose(logits, np.float32(temperature), key, np.int32(t)))
        token = int(scores.argmax())
        second, first = np.sort(scores)[-2:]
        row.tokens.append(token)
        row.log_probs.append(float(log_probs[token]))
        row.gaps.append(float(first - second))
        context.append(token)
        if token in stop_ids:
            break
    return row


class Agreement:
    """Compares rows with the slow way, and counts the ties at which it had to let go."""

    def __init__(self):
        self.rows = self.ties = 0

    def check(self, row: Row, tokens, log_probs=None, length=None) -> None:
        """`tokens`: what the fast way gave, -1 behind its end."""
        tokens = [int(token) for token in tokens]
        self.rows += 1
        for t, expected in enumerate(row.tokens):
            if t < len(tokens) and tokens[t] == expected:
                if log_probs is not None:
                    assert abs(float(log_probs[t]) - row.log_probs[t]) < 1e-4, (t, log_probs[t], row.log_probs[t])
                continue
            assert row.gaps[t] < TIE, f"token {t} is {tokens[t : t + 1]}, not {expected}, and no tie: {row.gaps[t]}"
            self.ties += 1
            return
        end = len(row.tokens)
        assert all(token == -1 for token in tokens[end:]), (tokens, row.tokens)
        if log_probs is not None:
            assert all(float(p) == 0.0 for p in log_probs[end:])
        if length is not None:
            assert int(length) == end

    def assert_ties_are_rare(self) -> None:
        assert self.rows > 0
        assert self.ties <= 0.02 * self.rows, f"{self.ties} ties in {self.rows} rows"
