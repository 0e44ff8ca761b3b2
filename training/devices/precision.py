"""Products in bfloat16, weights and sums in float32."""

from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from training.losses import Batch, Carry, Loss, Sums

Precision = Literal["float32", "bfloat16"]


def in_precision(loss: Loss, precision: Precision | None) -> Loss:
    """A loss whose model computes in another type than that of its weights.

    In "bfloat16" every float32 array of the model is rounded before it is used, so activations take half the memory
    and products run at twice the speed or more where the hardware has them; losses and their sums stay in float32.
    Gradients come back in float32, for the weights as they are. No loss is scaled: bfloat16 has float32's range.

    Args:
        loss: as for `fit`.
        precision: None and "float32" give the loss itself.

    Raises:
        ValueError: another precision.
    """
    if precision is None:
        return loss
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}; got {precision!r}")
    return loss if precision == "float32" else _Rounded(loss)


class _Rounded(eqx.Module):
    """Not a closure, so that it can be compared and sent to another process; of equal losses they are equal."""

    loss: Loss

    def __call__(self, model: Any, batch: Batch, carry: Carry, key: PRNGKeyArray | None) -> tuple[Sums, Carry]:
        model = jax.tree.map(_round, model)
        sums, new = self.loss(model, batch, jax.tree.map(_round, carry), key)
        # The carry keeps its type from step to step, whatever the model computes in; a first one may come from None.
        if jax.tree.structure(new) == jax.tree.structure(carry):
            new = jax.tree.map(lambda n, o: n.astype(o.dtype) if eqx.is_inexact_array(n) else n, new, carry)
        return sums, new


def _round(leaf: Any) -> Any:
    return leaf.astype(jnp.bfloat16) if eqx.is_array(leaf) and leaf.dtype == jnp.float32 else leaf
