"""Losses and gradients where arrays of two types never meet silently, as JAX_NUMPY_DTYPE_PROMOTION=strict has it."""

import equinox as eqx
import jax
import pytest
from killed_training import model_loop

MODELS = ("char_rnn", "transformer_lm", "encoder_decoder", "text_convnet", "transformer_classifier")


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_trace(name):
    """Optax's Adam does not, so it is the gradient alone."""
    setting = model_loop(name, 0)
    batch, loss, carry = next(iter(setting["batches"])), setting["loss"], setting.get("carry")

    def objective(model, key):
        return loss(model, batch, carry, key)[0].mean()

    value, gradient = eqx.filter_eval_shape(eqx.filter_value_and_grad(objective), setting["model"], jax.random.key(0))
    assert value.dtype == "float32"
    assert jax.tree.structure(gradient) == jax.tree.structure(eqx.filter(setting["model"], eqx.is_inexact_array))
