"""Classes by the body of a language model: an empty text has no last token, and no mean."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import TransformerLMClassifier, TransformerLMClassifierConfig


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_vector_of_an_empty_text_is_zero(fill, pooling):
    sizes: Any = {"vocab_size": 5, "embed_size": 4, "num_layers": 1, "num_heads": 1, "mlp_size": 4, "max_length": 3}
    config = TransformerLMClassifierConfig(num_classes=2, pooling=pooling, **sizes)
    model = fill(lambda key: TransformerLMClassifier(config, key=key))
    vectors = eqx.filter_jit(jax.vmap(lambda tokens, length: model.hidden(tokens, length)))(
        jnp.array([[1, 2, 3], [1, 2, 3]]), jnp.array([0, 2])
    )
    np.testing.assert_array_equal(vectors[0], np.zeros(4))
    assert np.all(np.asarray(vectors[1]) != 0)
