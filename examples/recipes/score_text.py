"""How do I get the log-probabilities of text?

`score` gives the log-probability of each token given all before it, for one text or many of any lengths; the first
one is given, not scored, so that a text usually begins with a start token.
"""

import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data.pipeline import pipeline
from data.windows import Windows
from training import adamw, fit, next_token_loss
from zoo import TransformerLM, TransformerLMConfig, score

TEXT = """
The old clock in the hall strikes nine. The baker opens his shop in the old town. A child runs down the hall to the
open door. The town is still, and the clock in the tower strikes ten. The child buys bread at the shop of the baker.
"""


def main() -> dict[str, Any]:
    letters = sorted(set(TEXT))
    ids = [letters.index(letter) for letter in TEXT]
    config = TransformerLMConfig(
        vocab_size=len(letters), embed_size=32, num_layers=1, num_heads=4, mlp_size=64, max_length=64
    )
    lm = TransformerLM(config, key=jax.random.key(0))
    batches, optimiser = pipeline(Windows(np.array(ids), 32), 8, seed=0), adamw(1e-2, total_steps=60)
    lm = fit(lm, batches, next_token_loss, optimiser, steps=60, key=jax.random.key(1), log_every=60).model

    sentence = "\nThe clock in the town strikes nine."  # not in the text, but of its words
    mixed = sentence[0] + "".join(random.Random(0).sample(sentence[1:], len(sentence) - 1))
    scored = score(lm.decoder(), [[letters.index(letter) for letter in text] for text in (sentence, mixed)])
    for text, perplexity in zip((sentence, mixed), scored.perplexity, strict=True):
        print(f"{perplexity:10.1f} equally likely letters: {text.strip()}")
    weakest = int(np.argmin(scored.log_probs[0]))
    print(f"the greatest surprise: {sentence[weakest + 1]!r} after {sentence[: weakest + 1]!r}")

    # The same by hand, from the logits of the whole sequence.
    tokens = jnp.array([letters.index(letter) for letter in sentence])
    log_probs = jax.nn.log_softmax(lm(tokens[:-1]))[jnp.arange(len(tokens) - 1), tokens[1:]]
    apart = float(jnp.abs(log_probs - scored.log_probs[0]).max())
    print(f"by hand: {apart:.1e} apart at most")
    return {"perplexity": scored.perplexity.tolist(), "apart": apart, "total": float(scored.total[0])}


if __name__ == "__main__":
    main()
