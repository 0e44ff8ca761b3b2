"""Everything that generates: the cases of the contract that do, and two decoders that are no models.

Each stands beside a plain function from a whole sequence to the same logits.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from cases import CASES, VOCAB, Subject
from jax import Array
from jaxtyping import Float, Int

from zoo import AbstractDecoder

LENGTH = 48  # of the language models; less than the smallest capacity bucket, so that all runs share one shape


class Script(AbstractDecoder[Array]):
    """Says row i of its script after i tokens, whatever they are, and begins again at the end of the script."""

    rows: Float[Array, "steps vocab"]
    vocab_size: int = VOCAB
    max_length: int | None = None

    def init_state(self, capacity: int) -> Array:
        return jnp.array(0)

    def prefill(self, tokens, state, *, length=None):
        count = state + (tokens.shape[0] if length is None else length)
        return self.rows[count % self.rows.shape[0]], count

    def step(self, token, state):
        return self.prefill(token[None], state)

    def forward(self, tokens: Int[Array, " seq"]) -> Float[Array, "seq vocab"]:
        return self.rows[jnp.arange(1, tokens.size + 1) % self.rows.shape[0]]


def spell(*ids: int) -> Script:
    """A script that says these ids again and again; id 0 comes after no token, so it is never said first."""
    return Script(rows=10.0 * jax.nn.one_hot(jnp.array(ids), VOCAB))


class Elman(AbstractDecoder[Array]):
    """A recurrent network: its state is one vector, and nothing of it can be taken back.

    `source` is added at each step; with a row of them per example it stands for a text to translate.
    """

    embedding: Float[Array, "vocab hidden"]
    recurrent: Float[Array, "hidden hidden"]
    out: Float[Array, "hidden vocab"]
    source: Float[Array, "*rows hidden"]
    vocab_size: int = eqx.field(static=True)
    max_length: int | None = eqx.field(static=True)

    def __init__(self, vocab_size: int = VOCAB, hidden_size: int = 8, max_length: int | None = None, *, key):
        keys = jax.random.split(key, 4)
        self.embedding = jax.random.normal(keys[0], (vocab_size, hidden_size))
        self.recurrent = jax.random.normal(keys[1], (hidden_size, hidden_size))
        self.out = jax.random.normal(keys[2], (hidden_size, vocab_size))
        self.source = jax.random.normal(keys[3], (hidden_size,))
        self.vocab_size, self.max_length = vocab_size, max_length

    def init_state(self, capacity: int) -> Array:
        return jnp.zeros(self.recurrent.shape[0], self.recurrent.dtype)

    def step(self, token, state):
        state = jnp.tanh(self.embedding[token] + state @ self.recurrent + self.source)
        return state @ self.out, state

    def prefill(self, tokens, state, *, length=None):
        def body(state, item):
            index, token = item
            return jnp.where(index < length, self.step(token, state)[1], state), None

        length = tokens.size if length is None else length
        state, _ = jax.lax.scan(body, state, (jnp.arange(tokens.size), tokens))
        return state @ self.out, state

    def forward(self, tokens: Int[Array, " seq"]) -> Float[Array, "seq vocab"]:
        def body(state, token):
            state = jnp.tanh(self.embedding[token] + state @ self.recurrent + self.source)
            return state, state @ self.out

        return jax.lax.scan(body, self.init_state(0), tokens)[1]


def elman(fill, **options: Any) -> Subject:
    decoder = fill(lambda key: Elman(**options, key=key), scale=0.7)
    return Subject("elman", decoder, eqx.filter_jit(decoder.forward))


def script(fill) -> Subject:
    decoder = fill(lambda key: Script(rows=jax.random.normal(key, (7, VOCAB))), scale=1.5)
    return Subject("script", decoder, eqx.filter_jit(decoder.forward))


# What the contract tests as decoders of models, and two that are none.
BY_NAME = {case.name: case for case in CASES if case.generates}
OTHERS: dict[str, Callable[[Any], Subject]] = {"script": script, "elman": elman}
NAMES = (*BY_NAME, *OTHERS)


def subject_named(name: str, fill) -> Subject:
    """One of `NAMES`, with room for `LENGTH` tokens where there is a limit."""
    if name in OTHERS:
        return OTHERS[name](fill)
    case = BY_NAME[name]
    room = {"max_length": LENGTH} if hasattr(case.config(), "max_length") else {}
    return case.subject(fill(lambda key: case.make(key, **room)))


def language_model(fill, **changes: Any) -> Subject:
    """One with other fields than the contract's."""
    case = BY_NAME["TransformerLM-trax"]
    return case.subject(fill(lambda key: case.make(key, **{"max_length": LENGTH} | changes)))
