"""A character-level recurrent language model, and its decoder.

tokens -> one-hot -> num_layers x (cell over time) -> head -> logits
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Int, PRNGKeyArray, PyTree

from zoo.decoder import AbstractDecoder
from zoo.nn.checks import check_choice, check_probability, check_sizes
from zoo.nn.linear import Linear
from zoo.nn.recurrent import CELLS, AbstractCell, run_cell

CharRNNState = tuple[PyTree, ...]


class CharRNN(eqx.Module):
    """Maps a sequence of tokens and a state to logits and a state: row i scores the token that follows token i.

    A text of any length goes through in chunks, the state of one going into the next, for truncated
    back-propagation through time. Each layer is one matrix product for all its inputs, then a `lax.scan` of its cell.
    The one-hot input of the first layer is a look-up.

    References: Karpathy, "The Unreasonable Effectiveness of Recurrent Neural Networks", 2015.
    Differs from the seed's Flax version: logits instead of a softmax, and any cell, number of layers and dropout.

    Example:
        >>> from zoo import CharRNN, generate
        >>> rnn = CharRNN(61, 16, 3, cell="gru", key=jax.random.key(0))
        >>> logits, state = rnn(jnp.array([5, 3, 8]))
        >>> more, state = rnn(jnp.array([1, 2]), state)
        >>> logits.shape, more.shape
        ((3, 61), (2, 61))
        >>> generate(rnn.decoder(), [5, 3, 8], max_new_tokens=4).tokens.shape
        (4,)
    """

    cells: tuple[AbstractCell, ...]
    dropout: eqx.nn.Dropout
    head: Linear
    vocab_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    num_layers: int = eqx.field(static=True)
    cell: str | Callable[..., AbstractCell] = eqx.field(static=True)
    dropout_p: float = eqx.field(static=True)

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        *,
        cell: str | Callable[..., AbstractCell] = "rnn",
        dropout_p: float = 0.0,
        key: PRNGKeyArray,
    ):
        """
        Args:
            vocab_size: number of different tokens.
            hidden_size: length of each layer's hidden vector.
            num_layers: number of layers.
            cell: "rnn" (the seed's), "gru", "lstm", or a class of your own that is made as
                `cell(input_size, hidden_size, key=key)`.
            dropout_p: of what a layer shows to the next one and to the head, in [0, 1).
            key: for the weights.

        Raises:
            ValueError: an argument out of its range.
        """
        check_sizes(vocab_size=vocab_size, hidden_size=hidden_size, num_layers=num_layers)
        check_probability("dropout_p", dropout_p)
        if isinstance(cell, str):
            check_choice("cell", cell, CELLS)
        make: Callable[..., AbstractCell] = CELLS[cell] if isinstance(cell, str) else cell
        head_key, *keys = jax.random.split(key, num_layers + 1)
        sizes = [vocab_size] + [hidden_size] * (num_layers - 1)
        first, *others = (make(size, hidden_size, key=key) for size, key in zip(sizes, keys, strict=True))
        # One entry of a one-hot input is on: its weights alone have to make up the variance of a full input.
        scale = lambda weight: weight * math.sqrt(vocab_size)  # noqa: E731
        self.cells = (eqx.tree_at(lambda cell: cell.input.weight, first, replace_fn=scale), *others)
        self.dropout = eqx.nn.Dropout(dropout_p)
        # A fresh model's loss is ln(vocab_size) to a few hundredths.
        self.head = Linear(hidden_size, vocab_size, scale=0.2, key=head_key)
        self.vocab_size, self.hidden_size, self.num_layers = vocab_size, hidden_size, num_layers
        self.cell, self.dropout_p = cell, dropout_p

    def init_state(self) -> CharRNNState:
        """The state before any text: one of each cell."""
        return tuple(cell.init_state() for cell in self.cells)

    def hidden(
        self, tokens: Int[Array, " seq"], state: CharRNNState | None = None, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "seq {self.hidden_size}"], CharRNNState]:
        """The vectors that the head projects to logits, and each cell's states after every token, stacked."""
        state = self.init_state() if state is None else state
        keys = [None] * self.num_layers if key is None else jax.random.split(key, self.num_layers)
        x, states = None, []
        for cell, before, layer_key in zip(self.cells, state, keys, strict=True):
            projected = cell.project_ids(tokens, self.vocab_size) if x is None else cell.input(x)
            x, after = run_cell(cell, projected, before)
            x = self.dropout(x, key=layer_key)
            states.append(after)
        assert x is not None
        return x, tuple(states)

    def project(self, hidden: Float[Array, "*seq {self.hidden_size}"]) -> Float32[Array, "*seq {self.vocab_size}"]:
        """Logits of hidden vectors, in float32 whatever the type of the weights."""
        return self.head.accumulate(hidden)

    def __call__(
        self, tokens: Int[Array, " seq"], state: CharRNNState | None = None, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float32[Array, "seq {self.vocab_size}"], CharRNNState]:
        """
        Args:
            tokens: at least one id in 0 to vocab_size - 1; others give NaN from there on.
            state: what came before; nothing by default.
            key: for dropout, needed in training where dropout_p > 0.

        Returns:
            Logits, of which row i scores token i + 1, and the state after the last token.
        """
        hidden, states = self.hidden(tokens, state, key=key)
        return self.project(hidden), _at(states, tokens.shape[0] - 1)

    def decoder(self) -> "CharRNNDecoder":
        """This model for one token at a time, without dropout: for `zoo.sampling`."""
        return CharRNNDecoder(rnn=eqx.nn.inference_mode(self), vocab_size=self.vocab_size)


class CharRNNDecoder(AbstractDecoder[CharRNNState]):
    """A `CharRNN` one token at a time, made by `CharRNN.decoder()`. Its state is as large after any text."""

    rnn: CharRNN
    vocab_size: int = eqx.field(static=True)
    max_length: int | None = eqx.field(static=True, default=None)

    def init_state(self, capacity: int) -> CharRNNState:
        del capacity  # hidden vectors hold any number of tokens
        return self.rnn.init_state()

    def prefill(
        self, tokens: Int[Array, " seq"], state: CharRNNState, *, length: Int[Array, ""] | int | None = None
    ) -> tuple[Float32[Array, " vocab"], CharRNNState]:
        last = (tokens.shape[0] if length is None else jnp.asarray(length)) - 1
        hidden, states = self.rnn.hidden(tokens, state)
        return self.rnn.project(_at(hidden, last)), _at(states, last)

    def step(self, token: Int[Array, ""], state: CharRNNState) -> tuple[Float32[Array, " vocab"], CharRNNState]:
        return self.prefill(token[None], state)

    def extend(
        self, tokens: Int[Array, " seq"], state: CharRNNState
    ) -> tuple[Float32[Array, "seq vocab"], CharRNNState]:
        return self.rnn(tokens, state)


def _at(stacked: PyTree, index: Int[Array, ""] | int) -> PyTree:
    """One step of what `lax.scan` stacked."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)
