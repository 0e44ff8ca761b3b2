"""Random models in which every beginning has logits of its own, and slow searches through all that they can say."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from zoo import AbstractDecoder

ROWS = 4001  # a prime: beginnings hardly share a row


class Tree(AbstractDecoder[Array]):
    """Logits from a table, at a place that depends on all tokens so far."""

    rows: Float[Array, "rows vocab"]
    vocab_size: int
    max_length: int | None = None

    def init_state(self, capacity: int) -> Array:
        return jnp.zeros((), jnp.int32)

    def step(self, token, state):
        state = place(state, token)
        return self.rows[state], state

    def prefill(self, tokens, state, *, length=None):
        length = tokens.size if length is None else length
        taken = lambda i, state: jnp.where(i < length, place(state, tokens[i]), state)  # noqa: E731
        state = jax.lax.fori_loop(0, tokens.size, taken, state)
        return self.rows[state], state


def place(state, token):
    """The row after one more token; of NumPy's, JAX's and PyTorch's integers."""
    return (state * 31 + token + 1) % ROWS


@dataclasses.dataclass(frozen=True)
class Case:
    """A random model and how it is searched; `how` are the arguments of `beam_search`."""

    rows: np.ndarray
    prompt: list[int]
    how: dict[str, Any]

    @property
    def decoder(self) -> Tree:
        return Tree(rows=jnp.asarray(self.rows), vocab_size=self.rows.shape[1])

    def score(self, tokens: list[int]) -> tuple[float, float]:
        """The log-probability of an answer, and what it is ranked by."""
        state = 0
        for token in self.prompt:
            state = place(state, token)
        total = 0.0
        for token in tokens:
            row = self.rows[state].astype(np.float64)
            total += row[token] - row.max() - np.log(np.exp(row - row.max()).sum())
            state = place(state, token)
        return total, total / len(tokens) ** self.how["length_penalty"]


def random_case(
    seed: int,
    *,
    beams=(1, 2, 3, 4, 5),
    longest: int = 10,
    penalties=(-1.0, 0.0, 1.0, 2.0),
    stop_ids=([0], [0, 1], []),
    forbidding: bool = True,
) -> Case:
    """Of few sizes, so that few programs are compiled; half of them often say a stop id, some forbid tokens."""
    rng = np.random.default_rng(seed)
    vocab = int(rng.choice([4, 7]))
    rows = (rng.choice([0.3, 1.0, 3.0]) * rng.normal(size=(ROWS, vocab))).astype(np.float32)
    rows[:, 0] += rng.choice([-1.0, 0.0, 1.5])
    if forbidding and rng.random() < 0.3:  # one token is left
        rows[:, 1:][rng.random((ROWS, vocab - 1)) < 0.3] = -np.inf
    how = {
        "num_beams": int(rng.choice(beams)),
        "max_new_tokens": int(rng.integers(1, longest + 1)),
        "stop_ids": stop_ids[rng.integers(len(stop_ids))],
        "length_penalty": float(rng.choice(penalties)),
    }
    return Case(rows, rng.integers(0, vocab, size=rng.integers(1, 4)).tolist(), how)


def every_answer(case: Case) -> list[tuple[float, tuple[int, ...], float]]:
    """All that may be said, best first: what it is ranked by, its tokens, its log-probability."""
    found: list[tuple[float, tuple[int, ...], float]] = []
    start = 0
    for token in case.prompt:
        start = place(start, token)
    stack: list[tuple[tuple[int, ...], float, int]] = [((), 0.0, start)]
    while stack:
        tokens, total, state = stack.pop()
        row = case.rows[state].astype(np.float64)
        row = row - row.max() - np.log(np.exp(row - row.max()).sum())
        for token in np.flatnonzero(row > -np.inf).tolist():
            longer = *tokens, token
            if token in case.how["stop_ids"] or len(longer) == case.how["max_new_tokens"]:
                its = total + row[token]
                found.append((its / len(longer) ** case.how["length_penalty"], longer, its))
            else:
                stack.append((longer, total + row[token], place(state, token)))
    return sorted(found, reverse=True)


def slow_beam_search(case: Case) -> list[tuple[float, tuple[int, ...]]]:
    """The search as it is described, with lists, in float64 and to the last token: nothing is given up early."""
    beams, stops, penalty = case.how["num_beams"], case.how["stop_ids"], case.how["length_penalty"]
    start = 0
    for token in case.prompt:
        start = place(start, token)
    running, finished = [(0.0, (), start)], []
    for count in range(1, case.how["max_new_tokens"] + 1):
        longer = []
        for total, tokens, state in running:
            row = case.rows[state].astype(np.float64)
            row = total + row - row.max() - np.log(np.exp(row - row.max()).sum())
            longer += [(row[t], (*tokens, t), place(state, t)) for t in np.flatnonzero(row > -np.inf).tolist()]
        longer.sort(key=lambda beam: -beam[0])
        finished += [(total / count**penalty, t) for total, t, _ in longer[:beams] if t[-1] in stops]
        running = [beam for beam in longer if beam[1][-1] not in stops][:beams]
    finished += [(total / len(tokens) ** penalty, tokens) for total, tokens, _ in running]
    return sorted(finished, reverse=True)[:beams]
