"""Recurrent cells: one step each, without any loop inside. `run_cell` applies one to a whole sequence.

A step has two halves: the projection of the input, which for a whole sequence is one matrix product, and the
recurrence, which has to wait for the state. A cell of your own needs the fields and the three methods that
`AbstractCell` leaves abstract, and fits wherever these do.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import DTypeLike, Float, Int, PRNGKeyArray, PyTree

from zoo.nn.checks import check_jax_array
from zoo.nn.embedding import embedding_lookup
from zoo.nn.linear import AbstractLinear, Linear
from zoo.varying import vary_together

State = TypeVar("State")


class AbstractCell(eqx.Module, Generic[State]):
    """Maps an input and a state to a new state: `cell(x, state)`.

    Attributes:
        input: the layer that every input goes through before it meets the state.
        hidden_size: size of a cell's output.
    """

    input: eqx.AbstractVar[AbstractLinear]
    hidden_size: eqx.AbstractVar[int]

    @abstractmethod
    def init_state(self) -> State:
        """The state before any input: zeros."""

    @abstractmethod
    def step(self, projected: Float[Array, " gates"], state: State) -> State:
        """The new state, from `self.input(x)` and the old one."""

    @abstractmethod
    def output(self, state: State) -> Float[Array, " hidden"]:
        """The hidden vector of a state: what the next layer sees."""

    def __call__(self, x: Float[Array, " input"], state: State) -> State:
        return self.step(self.input(x), state)

    def project_ids(self, ids: Int[Array, " seq"], input_size: int | None = None) -> Float[Array, "seq gates"]:
        """`self.input` of one-hot vectors, by a look-up of a `Linear`'s columns.

        Args:
            ids: which entry of each vector is one; an id outside `input_size` gives NaN.
            input_size: size of the vectors, needed where another layer stands in the place of the `Linear`: that one
                gets the vectors themselves.
        """
        if isinstance(self.input, Linear):
            check_jax_array("the weight of a cell's input", self.input.weight)
            projected = embedding_lookup(self.input.weight.T, ids)
            return projected if self.input.bias is None else projected + self.input.bias[None]
        if input_size is None:
            raise ValueError(
                f"project_ids needs input_size where input is not a Linear but a {type(self.input).__name__}"
            )
        projected = self.input(jax.nn.one_hot(ids, input_size, dtype=_weight_dtype(self.input)))
        return jnp.where(((ids >= 0) & (ids < input_size))[:, None], projected, jnp.nan)


def _weight_dtype(layer: AbstractLinear) -> DTypeLike:
    """The type of a layer's first floating-point array: its weights', or of what scales them."""
    arrays = (leaf for leaf in jax.tree.leaves(layer) if hasattr(leaf, "dtype"))  # an adapter may hold a flag
    return next(array.dtype for array in arrays if jnp.issubdtype(array.dtype, jnp.floating))


class RNNCell(AbstractCell[Array]):
    """`tanh(W [h; x] + b)`: one dense layer on the joined state and input.

    References: Elman, "Finding Structure in Time", 1990.

    Example:
        >>> cell = RNNCell(3, 4, key=jax.random.key(0))
        >>> cell(jnp.ones(3), cell.init_state()).shape
        (4,)
    """

    input: AbstractLinear
    recurrent: AbstractLinear
    hidden_size: int = eqx.field(static=True)

    def __init__(self, input_size: int, hidden_size: int, *, key: PRNGKeyArray):
        """
        Args:
            input_size: size of an input.
            hidden_size: size of the state.
            key: for the weights; the recurrent ones are initialised orthogonal, so that the state neither vanishes
                nor explodes.
        """
        input_key, recurrent_key = jax.random.split(key)
        self.input = Linear(input_size, hidden_size, key=input_key)
        recurrent = Linear(hidden_size, hidden_size, use_bias=False, key=recurrent_key)
        orthogonal = jax.nn.initializers.orthogonal()(recurrent_key, (hidden_size, hidden_size))
        self.recurrent = eqx.tree_at(lambda layer: layer.weight, recurrent, orthogonal)
        self.hidden_size = hidden_size

    def init_state(self) -> Float[Array, " hidden"]:
        return jnp.zeros(self.hidden_size, _weight_dtype(self.input))

    def step(self, projected: Float[Array, " hidden"], state: Float[Array, " hidden"]) -> Float[Array, " hidden"]:
        return jnp.tanh(projected + self.recurrent(state))

    def output(self, state: Float[Array, " hidden"]) -> Float[Array, " hidden"]:
        return state


class GRUCell(AbstractCell[Array]):
    """Gated recurrent unit: the reset gate limits what the candidate sees of the state, the update gate what stays.

    `r, z = sigmoid(...)`, `n = tanh(W_n x + b_n + r (U_n h + c))`, `h' = n + z (h - n)`: as `equinox.nn.GRUCell`,
    with the same weights in the same order.

    References: Cho et al., 2014, arXiv:1406.1078; the reset gate after the product, as in cuDNN and PyTorch.

    Example:
        >>> cell = GRUCell(3, 4, key=jax.random.key(0))
        >>> cell(jnp.ones(3), cell.init_state()).shape
        (4,)
    """

    input: AbstractLinear
    recurrent: AbstractLinear
    candidate_bias: Float[Array, " hidden"]
    hidden_size: int = eqx.field(static=True)

    def __init__(self, input_size: int, hidden_size: int, *, key: PRNGKeyArray):
        """
        Args:
            input_size: size of an input.
            hidden_size: size of the state.
            key: for the weights.
        """
        input_key, recurrent_key = jax.random.split(key)
        self.input = Linear(input_size, 3 * hidden_size, key=input_key)
        self.recurrent = Linear(hidden_size, 3 * hidden_size, use_bias=False, key=recurrent_key)
        self.candidate_bias = jnp.zeros(hidden_size)
        self.hidden_size = hidden_size

    def init_state(self) -> Float[Array, " hidden"]:
        return jnp.zeros(self.hidden_size, _weight_dtype(self.input))

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

    `i, f, g, o` in this order, as `equinox.nn.LSTMCell` with the same weights; the forget gate's bias is initialised
    to 1.

    References: Hochreiter & Schmidhuber, 1997; Gers et al., "Learning to Forget", 2000; Jozefowicz et al., 2015,
    for the bias.

    Example:
        >>> cell = LSTMCell(3, 4, key=jax.random.key(0))
        >>> cell.output(cell(jnp.ones(3), cell.init_state())).shape
        (4,)
    """

    input: AbstractLinear
    recurrent: AbstractLinear
    hidden_size: int = eqx.field(static=True)

    def __init__(self, input_size: int, hidden_size: int, *, key: PRNGKeyArray):
        """
        Args:
            input_size: size of an input.
            hidden_size: size of the hidden vector and of the cell.
            key: for the weights.
        """
        input_key, recurrent_key = jax.random.split(key)
        layer = Linear(input_size, 4 * hidden_size, key=input_key)
        forget = jnp.zeros(4 * hidden_size).at[hidden_size : 2 * hidden_size].set(1.0)
        self.input = eqx.tree_at(lambda layer: layer.bias, layer, forget)
        self.recurrent = Linear(hidden_size, 4 * hidden_size, use_bias=False, key=recurrent_key)
        self.hidden_size = hidden_size

    def init_state(self) -> LSTMState:
        zeros = jnp.zeros(self.hidden_size, _weight_dtype(self.input))
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
        The cell's output after each input, and the states after each, stacked along a leading axis.
    """
    # In `jax.shard_map` a scan's carry has one type, and initial zeros don't vary while the data does. The weights
    # vary along with it: then their gradients are summed over the devices once, not at every step of the scan.
    cell, projected, state = vary_together(cell, projected, state)

    def step(state: Any, projected: Float[Array, " gates"]) -> tuple[Any, Any]:
        state, _ = vary_together(cell.step(projected, state), state)
        return state, state

    _, states = jax.lax.scan(step, state, projected)
    return jax.vmap(cell.output)(states), states
