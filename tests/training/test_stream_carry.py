"""Streams begin with states of zeros of the model's own kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import stream_carry, stream_loss
from zoo import CharRNN, CharRNNConfig


@pytest.mark.parametrize(("cell", "leaves"), [("rnn", 2), ("lstm", 4)])
def test_the_carry_is_a_state_for_each_stream(cell, leaves, fill):
    config = CharRNNConfig(vocab_size=5, cell=cell, hidden_size=3, num_layers=2)
    rnn = fill(lambda key: CharRNN(config, key=key))
    carry = stream_carry(rnn, 4)
    assert jax.tree.structure(carry) == jax.tree.structure(rnn.init_state())
    assert len(jax.tree.leaves(carry)) == leaves
    for leaf in jax.tree.leaves(carry):
        assert leaf.shape == (4, 3)
        assert not np.any(np.asarray(leaf))
    _, after = jax.eval_shape(jax.vmap(rnn), jnp.zeros((4, 2), int), carry)
    assert [leaf.shape for leaf in jax.tree.leaves(after)] == [leaf.shape for leaf in jax.tree.leaves(carry)]
    with pytest.raises(ValueError, match="num_streams must be at least 1, got 0"):
        stream_carry(rnn, 0)


def test_each_stream_may_begin_by_itself(fill):
    rnn = fill(lambda key: CharRNN(CharRNNConfig(vocab_size=5, hidden_size=4, num_layers=1), key=key))
    ids, carry = np.ones((4, 3), np.int32), jax.tree.map(lambda leaf: leaf + 1.0, stream_carry(rnn, 4))
    batch = {"inputs": ids, "targets": ids, "weights": np.ones((4, 3), np.float32)}
    loss = jax.jit(lambda reset: stream_loss(rnn, {**batch, "reset": reset}, carry, None)[0].loss)
    new, old, mixed = map(loss, (jnp.array(True), jnp.array(False), jnp.array([True, False, False, False])))
    np.testing.assert_allclose(mixed, new / 4 + old * 3 / 4, rtol=1e-5)
