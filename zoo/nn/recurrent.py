"""Recurrent cells: one step each, without any loop inside. `run_cell` applies one to a whole sequence.

A step has two halves: what the input contributes, which for a whole sequence is one matrix product, and what has to
wait for the state. A cell of your own needs the four methods of `AbstractCell`, and fits wherever these do.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray, PyTree

from zoo.nn.embedding import embedding_lookup
from zoo.nn.linear import Linear

State = TypeVar("State")


class AbstractCell(eqx.Module, Generic[State]):
    """Maps an input and a state to a new state: `cell(x, state)`.

    Attributes:
        input: the layer that every input goes through before it meets the state.
        hidden_size: length of the vector that a state shows to the outside.
    """

    input: eqx.AbstractVar[Linear]
    hidden_size: eqx.AbstractVar[int]

    @abstractmethod
    def init_state(self) -> State:
        """The state before any input: zeros."""

    @abstractmethod
    def step(self, projected: Float[Array, " gates"], state: State) -> State:
        """The new state, from `self.input(x)` and the old one."""

    @abstractmethod
    def output(self, state: State) -> Float[Array, " hidden"]:
        """What a state shows to the outside."""

    def __call__(self, x: Float[Array, " input"], state: State) -> State:
        return self.step(self.input(x), state)

    def project_ids(self, ids: Int[Array, " seq"]) -> Float[Array, "seq gates"]:
        """`self.input` of one-hot vectors: a look-up. An id outside `input_size` gives NaN."""
        projected = embedding_lookup(self.input.weight.T, ids)
        return projected if self.input.bias is None else projected + self.input.bias[None]


class RNNCell(AbstractCell[Array]):
    """`tanh(W [h; x] + b)`: one dense layer on the joined state and input.

    References: Elman, "Finding Structure in Time", 1990.

    Example:
        >>> cell = RNNCell(3, 4, key=jax.random.key(0))
        >>> cell(jnp.ones(3), cell.init_state()).shape
        (4,)
    """

    input: Linear
    recurrent: Linear
    hidden_size: int = eqx.field(static=True)

    def __init__(self, input_size: int, hidden_size: int, *, key: PRNGKeyArray):
        """
        Args:
            input_size: length of an input.
            hidden_size: length of the state.
            key: for the weights; those of the state start orthogonal, so that it neither dies nor explodes.
        """
        input_key, recurrent_key = jax.random.split(key)
        self.input = Linear(input_size, hidden_size, key=input_key)
        recurrent = Linear(hidden_size, hidden_size, use_bias=False, key=recurrent_key)
        start = jax.nn.initializers.orthogonal()(recurrent_key, (hidden_size, hidden_size))
        self.recurrent = eqx.tree_at(lambda layer: layer.weight, recurrent, start)
        self.hidden_size = hidden_size

    def init_state(self) -> Float[Array, " hidden"]:
        return jnp.zeros(self.hidden_size, self.input.weight.dtype)

    def step(self, projected: Float[Array, " hidden"], state: Float[Array, " hidden"]) -> Float[Array, " hidden"]:
        return jnp.tanh(projected + self.recurrent(state))

    def output(self, state: Float[Array, " hidden"]) -> Float[Array, " hidden"]:
        return state


class GRUCell(AbstractCell[Array]):
    """Gated recurrent unit: a reset gate decides what of the state is seen, an update gate what of it stays.

    `r, z = sigmoid(...)`, `n = tanh(W_n x + b_n + r (U_n h + c))`, `h' = n + z (h - n)`: as `equinox.nn.GRUCell`,
    with the same weights in the same order.

    References: Cho et al., 2014, arXiv:1406.1078; the reset gate behind the product, as in cuDNN and PyTorch.

    Example:
        >>> cell = GRUCell(3, 4, key=jax.random.key(0))
        >>> cell(jnp.ones(3), cell.init_state()).shape
        (4,)
    """

    input: Linear
    recurrent: Linear
    candidate_bias: Float[Array, " hidden"]
    hidden_size: int = eqx.field(static=True)

    def __init__(self, input_size: int, hidden_size: int, *, key: PRNGKeyArray):
        """
        Args:
            input_size: length of an input.
            hidden_size: length of the state.
            key: for the weights.
        """
        input_key, recurrent_key = jax.random.split(key)
        self.input = Linear(input_size, 3 * hidden_size, key=input_key)
        self.recurrent = Linear(hidden_size, 3 * hidden_size, use_bias=False, key=recurrent_key)
        self.candidate_bias = jnp.zeros(hidden_size)
        self.hidden_size = hidden_size

    def init_state(self) -> Float[Array, " hidden"]:
        return jnp.zeros(self.hidden_size, self.input.weight.dtype)

    def step(self, projected: Float[Array, " gates"], state: Float[Array, " hidden"]) -> Float[Array, " hidden"]:
        input_reset, input_update, input_candidate = jnp.split(projected, 3)
        state_reset, state_update, state_candidate = jnp.split(self.recurrent(state), 3)
        reset = jax.nn.sigmoid(input_reset + state_reset)
        update = jax.nn.sigmoid(input_update + state_update)
        candidate = jnp.tanh(input_candidate + reset * (state_candidate + self.candidate_bias))
        return candidate + update * (state - candidate)

    def output(self, state: Float[Array, " hidden"]) -> Float[Array, " hidden"]:
        return state


LSTMState = tuple[Float[Array, " hidden"], Float[Array, " hidden"]]


class LSTMCell(AbstractCell[LSTMState]):
    """Long short-term memory: the state is a hidden vector and a cell that gates write, keep and read.

    `i, f, g, o` in this order, as `equinox.nn.LSTMCell` with the same weights; the forget gate's bias starts at 1.

    References: Hochreiter & Schmidhuber, 1997; Gers et al., "Learning to Forget", 2000; Jozefowicz et al., 2015,
    for the bias.

    Example:
        >>> cell = LSTMCell(3, 4, key=jax.random.key(0))
        >>> cell.output(cell(jnp.ones(3), cell.init_state())).shape
        (4,)
    """

    input: Linear
    recurrent: Linear
    hidden_size: int = eqx.field(static=True)

    def __init__(self, input_size: int, hidden_size: int, *, key: PRNGKeyArray):
        """
        Args:
            input_size: length of an input.
            hidden_size: length of the hidden vector and of the cell.
            key: for the weights.
        """
        input_key, recurrent_key = jax.random.split(key)
        layer = Linear(input_size, 4 * hidden_size, key=input_key)
        forget = jnp.zeros(4 * hidden_size).at[hidden_size : 2 * hidden_size].set(1.0)
        self.input = eqx.tree_at(lambda layer: layer.bias, layer, forget)
        self.recurrent = Linear(hidden_size, 4 * hidden_size, use_bias=False, key=recurrent_key)
        self.hidden_size = hidden_size

    def init_state(self) -> LSTMState:
        zeros = jnp.zeros(self.hidden_size, self.input.weight.dtype)
        return zeros, zeros

    def step(self, projected: Float[Array, " gates"], state: LSTMState) -> LSTMState:
        hidden, cell = state
        write, forget, new, read = jnp.split(projected + self.recurrent(hidden), 4)
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(write) * jnp.tanh(new)
        return jax.nn.sigmoid(read) * jnp.tanh(cell), cell

    def output(self, state: LSTMState) -> Float[Array, " hidden"]:
        return state[0]


CELLS: dict[str, Callable[..., AbstractCell]] = {"rnn": RNNCell, "gru": GRUCell, "lstm": LSTMCell}


def run_cell(
    cell: AbstractCell, projected: Float[Array, "seq gates"], state: Any
) -> tuple[Float[Array, "seq hidden"], PyTree]:
    """One cell over a sequence whose inputs are projected already, by `lax.scan`.

    Returns:
        What the cell shows after each input, and the states after each, stacked along a leading axis.
    """

    def step(state: Any, projected: Float[Array, " gates"]) -> tuple[Any, Any]:
        state = cell.step(projected, state)
        return state, state

    _, states = jax.lax.scan(step, state, projected)
    return jax.vmap(cell.output)(states), states
