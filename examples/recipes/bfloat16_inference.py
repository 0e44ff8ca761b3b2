"""How do I run a model in bfloat16?

Cast its arrays: layers compute in the type of their weights, while norms, softmax, sums of products and logits are
in float32 whatever the type. Half the memory, and faster wherever there are 16-bit products.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from data.pipeline import pipeline
from data.synthetic import SequenceTask
from training import adamw, exact_match, fit, next_token_loss
from zoo import TransformerLM, TransformerLMConfig, generate


def to_bfloat16(model: TransformerLM) -> TransformerLM:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf, model)


def num_bytes(model: TransformerLM) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model) if eqx.is_array(leaf))


def main() -> dict[str, Any]:
    task = SequenceTask("copy", length=3, max_value=9)
    config = TransformerLMConfig(vocab_size=10, embed_size=32, num_layers=1, num_heads=4, mlp_size=64, max_length=8)
    lm = TransformerLM(config, key=jax.random.key(0))
    batches, optimiser = pipeline(task, 32, seed=None), adamw(1e-2, total_steps=120)
    lm = fit(lm, batches, next_token_loss, optimiser, steps=120, key=jax.random.key(1), log_every=120).model
    half = to_bfloat16(lm)

    prompts, answers = SequenceTask("copy", length=3, max_value=9, part="test").prompts_and_answers(64)
    right = [exact_match(generate(m.decoder(), prompts, max_new_tokens=3).tokens, answers) for m in (lm, half)]
    logits = jax.vmap(lm)(jnp.asarray(prompts)), jax.vmap(half)(jnp.asarray(prompts))
    apart = float(jnp.abs(jax.nn.log_softmax(logits[0]) - jax.nn.log_softmax(logits[1])).max())
    print(f"{num_bytes(lm):,} -> {num_bytes(half):,} bytes; logits are {logits[1].dtype}")
    print(f"log-probabilities differ by {apart:.2f} at most; right answers: {right[0]:.1%} and {right[1]:.1%}")
    return {"bytes": (num_bytes(lm), num_bytes(half)), "apart": apart, "right": right, "dtype": str(logits[1].dtype)}


if __name__ == "__main__":
    main()
