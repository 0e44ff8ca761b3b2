"""Streams begin with states of zeros of the model's own kind."""

import jax
import jax.numpy as jnp
import pytest

from training import stream_carry
from zoo import CharRNN, CharRNNConfig


@pytest.mark.parametrize(("cell", "leaves"), [("rnn", 2), ("lstm", 4)])
def test_the_carry_is_a_state_for_each_stream(cell, leaves):
    rnn = CharRNN(CharRNNConfig(vocab_size=5, cell=cell, hidden_size=3, num_layers=2), key=jax.random.key(0))
    carry = stream_carry(rnn, 4)
    assert jax.tree.structure(carry) == jax.tree.structure(rnn.init_state())
    assert len(jax.tree.leaves(carry)) == leaves
    for leaf in jax.tree.leaves(carry):
        assert leaf.shape == (4, 3)
        assert not leaf.any()
    _, after = jax.vmap(rnn)(jnp.zeros((4, 2), int), carry)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, carry)
    with pytest.raises(ValueError, match="num_streams must be at least 1, got 0"):
        stream_carry(rnn, 0)
