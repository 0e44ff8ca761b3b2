"""Streams begin with states of zeros of the model's own kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import stream_carry
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
