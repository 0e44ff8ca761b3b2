"""Cells against Equinox's with the same weights, and a scan against a plain loop."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from zoo import CharRNN, CharRNNConfig
from zoo.nn import AbstractCell, AbstractLinear, GRUCell, Linear, LSTMCell, RNNCell, run_cell
from zoo.varying import vary_together

CELLS = [RNNCell, GRUCell, LSTMCell]


@eqx.filter_jit
def call(cell, x, state):
    return cell(x, state)


def test_rnn_is_one_dense_layer_on_the_joined_vectors(normal, fill):
    cell, x, h = fill(lambda key: RNNCell(3, 5, key=key)), normal(3), normal(5)
    joined = np.concatenate([cell.recurrent.weight, cell.input.weight], axis=1) @ np.concatenate([h, x])
    np.testing.assert_allclose(call(cell, x, h), np.tanh(joined + np.asarray(cell.input.bias)), atol=1e-6)


def test_gru_is_equinoxs(normal, fill):
    cell = fill(lambda key: GRUCell(3, 5, key=key))
    theirs = eqx.tree_at(
        lambda c: (c.weight_ih, c.weight_hh, c.bias, c.bias_n),
        fill(lambda key: eqx.nn.GRUCell(3, 5, key=key)),
        (cell.input.weight, cell.recurrent.weight, cell.input.bias, cell.candidate_bias),
    )
    x, h = normal(3), normal(5)
    np.testing.assert_allclose(call(cell, x, h), call(theirs, x, h), atol=1e-6)


def test_lstm_is_equinoxs(normal, fill):
    cell = fill(lambda key: LSTMCell(3, 5, key=key))
    theirs = eqx.tree_at(
        lambda c: (c.weight_ih, c.weight_hh, c.bias),
        fill(lambda key: eqx.nn.LSTMCell(3, 5, key=key)),
        (cell.input.weight, cell.recurrent.weight, cell.input.bias),
    )
    x, h, c = normal(3), normal(5), normal(5)
    for ours, their in zip(call(cell, x, (h, c)), call(theirs, x, (h, c)), strict=True):
        np.testing.assert_allclose(ours, their, atol=1e-6)


@pytest.mark.parametrize("make", CELLS)
def test_a_scan_is_a_loop(make, normal, fill):
    cell, xs = fill(lambda key: make(4, 3, key=key)), normal(6, 4)
    outputs, states = eqx.filter_jit(run_cell)(cell, eqx.filter_jit(cell.input)(xs), cell.init_state())
    outputs, states, state = np.asarray(outputs), jax.tree.map(np.asarray, states), cell.init_state()
    for i, x in enumerate(np.asarray(xs)):
        state = call(cell, jnp.asarray(x, jnp.float32), state)
        np.testing.assert_allclose(outputs[i], cell.output(state), atol=1e-6)
        jax.tree.map(lambda whole, one, i=i: np.testing.assert_allclose(whole[i], one, atol=1e-6), states, state)


@pytest.mark.parametrize("make", CELLS)
def test_ids_are_one_hot_vectors(make, fill):
    cell = fill(lambda key: make(7, 3, key=key))
    ids, project = np.array([0, 6, 2, 2]), eqx.filter_jit(cell.project_ids)
    one_hot = jnp.asarray(np.eye(7, dtype=np.float32)[ids], jnp.float32)
    np.testing.assert_allclose(project(jnp.asarray(ids)), eqx.filter_jit(cell.input)(one_hot), atol=1e-6)
    assert np.isnan(project(jnp.array([7, -1, 7, -1]))).all()


@pytest.mark.parametrize("make", CELLS)
def test_no_loop_inside_a_cell(make, getkey):
    cell = make(4, 3, key=getkey())
    text = str(jax.make_jaxpr(cell)(jnp.ones(4), cell.init_state()))
    assert "scan" not in text
    assert "while" not in text


class Leaky(AbstractCell[jax.Array]):
    """A user's own cell: a running mean."""

    input: AbstractLinear
    hidden_size: int = eqx.field(static=True)

    def __init__(self, input_size, hidden_size, *, key):
        self.input = Linear(input_size, hidden_size, key=key)
        self.hidden_size = hidden_size

    def init_state(self):
        return jnp.zeros(self.hidden_size)

    def step(self, projected, state):
        return 0.9 * state + 0.1 * projected

    def output(self, state):
        return state


def test_a_cell_of_ones_own_fits(getkey):
    config = CharRNNConfig(vocab_size=5, hidden_size=4, num_layers=2)
    rnn = eqx.filter_jit(lambda key: CharRNN(config, cell=Leaky, key=key))(getkey())
    assert eqx.filter_jit(rnn)(jnp.array([1, 2, 3]))[0].shape == (3, 5)
    assert rnn.config.cell == "custom"


def test_ids_of_a_layer_that_is_not_a_linear_need_the_size(fill):
    class Twice(AbstractLinear):
        linear: AbstractLinear
        scaled: bool = True  # a leaf that has no type

        def accumulate(self, x):
            return (2 if self.scaled else 1) * self.linear.accumulate(x)

        def __call__(self, x):
            return self.accumulate(x).astype(x.dtype)

    cell = eqx.tree_at(lambda cell: cell.input, fill(lambda key: GRUCell(4, 3, key=key)), replace_fn=Twice)
    assert np.isnan(cell.project_ids(jnp.array([4, -1]), 4)).all()
    with pytest.raises(ValueError, match=r"input_size .* Twice"):
        cell.project_ids(jnp.array([1]))


class Restarting(AbstractCell[tuple[jax.Array, jax.Array]]):
    """Its state holds a part that no step takes from its arguments."""

    input: AbstractLinear
    hidden_size: int = eqx.field(static=True)

    def __init__(self, input_size, hidden_size, *, key):
        self.input = Linear(input_size, hidden_size, key=key)
        self.hidden_size = hidden_size

    def init_state(self):
        return jnp.zeros(self.hidden_size), jnp.zeros((), jnp.int32)

    def step(self, projected, state):
        return 0.9 * state[0] + 0.1 * projected, jnp.zeros((), jnp.int32)

    def output(self, state):
        return state[0]


@pytest.mark.parametrize("make", [*CELLS, Restarting])
@pytest.mark.parametrize("varying", ["inputs", "state", "weights"])
def test_whatever_varies_from_device_to_device(make, varying, fill):
    """In `jax.shard_map` the type of a scan's carry is that of all that goes in. One device has the types of many."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    cell, xs = fill(lambda key: make(4, 3, key=key)), jnp.ones((6, 4))

    def program(cell, xs, varied):
        widen = lambda tree: vary_together(tree, varied)[0]  # noqa: E731
        state = cell.init_state()
        if varying == "weights":
            cell = widen(cell)
        elif varying == "inputs":
            xs = widen(xs)
        else:
            state = widen(state)
        return run_cell(cell, cell.input(xs), state)

    def mapped(out_specs):
        return jax.shard_map(program, mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=out_specs)

    jax.eval_shape(mapped(P("data")), cell, xs, xs)
    with pytest.raises(ValueError, match="out_specs"):
        jax.eval_shape(mapped(P()), cell, xs, xs)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_chunks_are_the_whole(cell, getkey, fill):
    """State carried from chunk to chunk: any cut gives the logits of the uncut text."""
    config = CharRNNConfig(vocab_size=11, hidden_size=6, num_layers=3, cell=cell)
    rnn = fill(lambda key: CharRNN(config, key=key))
    read = eqx.filter_jit(lambda rnn, tokens, state: rnn(tokens, state))
    tokens = jax.random.randint(getkey(), (9,), 0, 11)
    whole, end = read(rnn, tokens, None)
    for cuts in ([7], [1, 2, 8], [7, 8]):  # of few lengths, since each is compiled
        state, parts = rnn.init_state(), []
        for part in np.split(np.asarray(tokens), cuts):
            logits, state = read(rnn, jnp.asarray(part), state)
            parts.append(logits)
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state, end)


@pytest.mark.usefixtures("as_users")
def test_wrong_arguments(getkey):
    with pytest.raises(ValueError, match=r"cell must be one of 'rnn', 'gru', 'lstm', 'custom', got 'elman'"):
        CharRNNConfig(vocab_size=11, hidden_size=6, num_layers=3, cell="elman")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="num_layers"):
        CharRNNConfig(vocab_size=11, hidden_size=6, num_layers=0)
    with pytest.raises(ValueError, match="pass its class as cell"):
        CharRNN(CharRNNConfig(vocab_size=11, hidden_size=6, num_layers=1, cell="custom"), key=getkey())
