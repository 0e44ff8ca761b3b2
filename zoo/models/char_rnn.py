"""A character-level recurrent language model, its config and its decoder.

tokens -> one-hot -> num_layers x (cell over time) -> head -> logits
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Int, PRNGKeyArray, PyTree

from zoo.decoder import AbstractDecoder
from zoo.nn.checks import check_choice, check_ids, check_plain, check_probability, check_sizes
from zoo.nn.dropout import Dropout
from zoo.nn.linear import AbstractLinear, Linear
from zoo.nn.recurrent import CELLS, AbstractCell, run_cell

CharRNNState = tuple[PyTree, ...]


@dataclass(frozen=True, kw_only=True)
class CharRNNConfig:
    """What a `CharRNN` is made of. Plain JSON.

    Raises:
        ValueError: a field out of its range.
    """

    vocab_size: int
    """Number of different tokens."""
    hidden_size: int
    """Length of each layer's hidden vector."""
    num_layers: int
    """Number of layers."""
    cell: Literal["rnn", "gru", "lstm", "custom"] = "rnn"
    """The recurrent cell; "custom" is a class that the constructor is given."""
    dropout_p: float = 0.0
    """Dropout probability for the outputs of each layer, in [0, 1)."""

    def __post_init__(self):
        check_plain(self)
        check_sizes(vocab_size=self.vocab_size, hidden_size=self.hidden_size, num_layers=self.num_layers)
        check_choice("cell", self.cell, (*CELLS, "custom"))
        check_probability(dropout_p=self.dropout_p)


class CharRNN(eqx.Module):
    """Maps a sequence of tokens and a state to logits and a state: row i scores the token that follows token i.

    A text of any length goes through in chunks, the state of one going into the next, for truncated
    back-propagation through time. Each layer is one matrix product for all its inputs, then a `lax.scan` of its cell.
    The one-hot input of the first layer is a lookup.

    References: Karpathy, "The Unreasonable Effectiveness of Recurrent Neural Networks", 2015.
    Differs from the source: logits instead of a softmax, and any cell, number of layers and dropout.

    Example:
        >>> from zoo import CharRNN, CharRNNConfig, generate
        >>> config = CharRNNConfig(vocab_size=61, hidden_size=16, num_layers=3, cell="gru")
        >>> rnn = eqx.filter_jit(CharRNN)(config, key=jax.random.key(0))
        >>> read = eqx.filter_jit(rnn)
        >>> logits, state = read(jnp.array([5, 3, 8]))
        >>> more, state = read(jnp.array([1, 2]), state)
        >>> logits.shape, more.shape
        ((3, 61), (2, 61))
        >>> generate(rnn.decoder(), [5, 3, 8], max_new_tokens=4).tokens.shape
        (4,)
    """

    cells: tuple[AbstractCell, ...]
    dropout: Dropout
    head: AbstractLinear
    config: CharRNNConfig = eqx.field(static=True)

    def __init__(self, config: CharRNNConfig, *, cell: Callable[..., AbstractCell] | None = None, key: PRNGKeyArray):
        """
        Args:
            config: sizes and choices.
            cell: a class of your own in place of the config's cell, made as `cell(input_size, hidden_size, key=key)`.
                `model.config.cell` is then "custom", which a file cannot describe: save the arrays alone
                (`zoo.serialisation.named_arrays`), or a class of yours whose constructor makes the model.
            key: for the weights.

        Raises:
            ValueError: the config's cell is "custom", and none is given.
        """
        if cell is not None:
            config = replace(config, cell="custom")
        elif config.cell == "custom":
            raise ValueError('the cell is "custom": pass its class as cell')
        make: Callable[..., AbstractCell] = CELLS[config.cell] if cell is None else cell
        head_key, *keys = jax.random.split(key, config.num_layers + 1)
        sizes = [config.vocab_size] + [config.hidden_size] * (config.num_layers - 1)
        first, *others = (make(size, config.hidden_size, key=key) for size, key in zip(sizes, keys, strict=True))
        # One entry of a one-hot input is on: its weights alone have to make up the variance of a full input.
        scale = lambda weight: weight * math.sqrt(config.vocab_size)  # noqa: E731
        self.cells = (eqx.tree_at(lambda cell: cell.input.weight, first, replace_fn=scale), *others)
        self.dropout = Dropout(config.dropout_p)
        # A fresh model's loss is ln(vocab_size) to a few hundredths.
        self.head = Linear(config.hidden_size, config.vocab_size, scale=0.2, key=head_key)
        self.config = config

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    def init_state(self) -> CharRNNState:
        """The state before any text: one of each cell."""
        return tuple(cell.init_state() for cell in self.cells)

    def hidden(
        self, tokens: Int[Array, " seq"], state: CharRNNState | None = None, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "seq {self.config.hidden_size}"], CharRNNState]:
        """The vectors that the head projects to logits, and each cell's states after every token, stacked."""
        state = self.init_state() if state is None else state
        keys = [None] * self.config.num_layers if key is None else jax.random.split(key, self.config.num_layers)
        x, states = None, []
        for cell, before, layer_key in zip(self.cells, state, keys, strict=True):
            projected = cell.project_ids(tokens, self.vocab_size) if x is None else cell.input(x)
            x, after = run_cell(cell, projected, before)
            x = self.dropout(x, key=layer_key)
            states.append(after)
        assert x is not None
        return x, tuple(states)

    def project(
        self, hidden: Float[Array, "*seq {self.config.hidden_size}"]
    ) -> Float32[Array, "*seq {self.vocab_size}"]:
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
        check_ids("tokens", tokens)
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
