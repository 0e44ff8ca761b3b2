"""How do I write a sampler of my own?

A sampler maps the logits of one row, and the tokens so far, to the logits to draw from; -inf forbids a token. This
one never lets a pair of tokens come twice. It works in a `Chain`, in batches and streams, and inside `jax.jit`.
"""

from collections import Counter
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float32, Int

from zoo import AbstractSampler, Chain, Greedy, Temperature, TransformerLM, TransformerLMConfig, generate


class NoRepeatedPair(AbstractSampler):
    """Forbids each token that has already followed the last one."""

    @property
    def draws(self) -> bool:
        return False  # it needs no key of its own

    def __call__(self, logits: Float32[Array, " vocab"], context: Int[Array, " room"]) -> Float32[Array, " vocab"]:
        # Shapes are fixed: after the tokens so far, of which there are `count`, the context holds -1.
        count = jnp.sum(context >= 0)
        before, after = context[:-1], context[1:]
        followed = (before == context[count - 1]) & (after >= 0)
        # What is not forbidden gets an id beyond the vocabulary, which `mode="drop"` leaves out.
        forbidden = jnp.where(followed, after, logits.size)
        return logits.at[forbidden].set(-jnp.inf, mode="drop")


def main() -> dict[str, Any]:
    config = TransformerLMConfig(vocab_size=10, embed_size=32, num_layers=1, num_heads=4, mlp_size=64, max_length=64)
    decoder = TransformerLM(config, key=jax.random.key(0)).decoder()  # untrained: it says one thing again and again
    samplers = {
        "greedy": Greedy(),
        "no pair twice": Chain(NoRepeatedPair(), Temperature(0.7)),
    }
    counts, prompt = {}, [1, 2]
    for name, sampler in samplers.items():
        out = generate(decoder, prompt, max_new_tokens=30, sampler=sampler, key=jax.random.key(1))
        tokens = prompt + out.tokens.tolist()
        counts[name] = max(Counter(pairwise(tokens)).values())
        print(f"{name:13} {' '.join(map(str, tokens))}: one pair comes {counts[name]} times")
    return counts


if __name__ == "__main__":
    main()
