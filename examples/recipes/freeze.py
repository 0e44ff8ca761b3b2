"""How do I freeze parts of a model?

`init_state(trainable=...)` takes a pytree of Bools shaped like the model, or a prefix of it: False is not trained,
gets no gradient and no optimiser state. Equal blocks lie stacked in one array per weight, so single layers are
frozen by setting their updates to zero.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from data.pipeline import pipeline
from data.synthetic import SequenceTask
from training import adamw, fit, init_state, next_token_loss
from zoo import TransformerLM, TransformerLMConfig
from zoo.rebuild import named_arrays


def freeze_first_layers(count: int) -> optax.GradientTransformation:
    """The last link of a chain: no update for the first `count` blocks of the stack."""

    def keep(update: jax.Array) -> jax.Array:
        return update.at[:count].set(0)

    def update(updates: Any, params: Any = None) -> Any:
        return eqx.tree_at(lambda lm: lm.stack.blocks, updates, replace_fn=lambda part: jax.tree.map(keep, part))

    return optax.stateless(update)


def main() -> dict[str, Any]:
    task, steps = SequenceTask("copy", length=3, max_value=9), 60
    config = TransformerLMConfig(vocab_size=10, embed_size=32, num_layers=2, num_heads=4, mlp_size=64, max_length=8)
    lm = TransformerLM(config, key=jax.random.key(0))
    optimiser = optax.chain(adamw(1e-2, total_steps=steps), freeze_first_layers(1))

    everything = jax.tree.map(eqx.is_inexact_array, lm)
    trainable = eqx.tree_at(lambda lm: (lm.embedding, lm.position_embedding), everything, (False, False))
    state = init_state(lm, optimiser, trainable=trainable, key=jax.random.key(1))
    result = fit(state, pipeline(task, 32, seed=None), next_token_loss, optimiser, steps=steps, log_every=steps)

    before, after = named_arrays(lm), named_arrays(result.model)
    frozen = [name for name in before if jnp.array_equal(before[name], after[name])]
    first, second = (eqx.tree_equal(lm.stack[i], result.model.stack[i]) for i in (0, 1))
    print(f"unchanged to the last bit: {', '.join(frozen)}; block 0: {bool(first)}, block 1: {bool(second)}")
    return {"frozen": frozen, "blocks": [bool(first), bool(second)], "losses": [r["loss"] for r in result.history]}


if __name__ == "__main__":
    main()
