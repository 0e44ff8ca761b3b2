"""How do I write a model of my own that generates?

Any `eqx.Module` trains; with a decoder's three methods it generates. This one's state is a sum that slowly fades.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from data.pipeline import pipeline
from data.windows import Windows
from training import adamw, fit, next_token_loss
from zoo import AbstractDecoder, beam_search, generate
from zoo.nn import Linear, TokenEmbedding

TEXT = "the cat sat on a mat. my dog lies by your log. her bird sang in its tree. " * 8
LETTERS = sorted(set(TEXT))


class Fading(AbstractDecoder[jax.Array]):  # it decodes with its weights as they are, so the model is its own decoder
    embedding: TokenEmbedding
    head: Linear
    fading: jax.Array  # before the sigmoid: how much of each entry is left after a token
    vocab_size: int = eqx.field(static=True, default=len(LETTERS))
    max_length: int | None = eqx.field(static=True, default=None)  # of a text: any

    def __call__(self, tokens: jax.Array, *, key: Any = None) -> jax.Array:
        return self.extend(tokens, self.init_state(len(tokens)))[0]  # inherited: one step after another

    def init_state(self, capacity: int) -> jax.Array:
        return jnp.zeros_like(self.fading)

    def step(self, token: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = jax.nn.sigmoid(self.fading) * state + self.embedding(token[None])[0]
        return self.head.accumulate(jnp.tanh(state)), state

    def prefill(self, tokens: jax.Array, state: jax.Array, *, length: Any = None) -> tuple[jax.Array, jax.Array]:
        last = (len(tokens) if length is None else length) - 1  # what comes later is padding, and changes nothing
        state = jax.lax.fori_loop(0, last, lambda i, state: self.step(tokens[i], state)[1], state)
        return self.step(tokens[last], state)


def main() -> dict[str, Any]:
    ids, (first, second) = [LETTERS.index(letter) for letter in TEXT], jax.random.split(jax.random.key(0))
    embedding, head = TokenEmbedding(len(LETTERS), 64, key=first), Linear(64, len(LETTERS), scale=0.2, key=second)
    model = Fading(embedding=embedding, head=head, fading=jnp.linspace(-3.0, 3.0, 64))
    optimiser, batches = adamw(2e-2, total_steps=120), pipeline(Windows(np.array(ids), 32), 8, seed=0)
    result = fit(model, batches, next_token_loss, optimiser, steps=120, key=jax.random.key(1), log_every=120)
    written = generate(result.model, ids[:7], max_new_tokens=19).tokens
    beams = beam_search(result.model, ids[:7], num_beams=4, max_new_tokens=19)
    texts = ["".join(LETTERS[i] for i in row) for row in (written, *beams.tokens)]
    print(f"{TEXT[:7]}|{texts[0]}\nbeams:", *texts[1:], sep="\n    ")
    return {"loss": result.history[-1]["loss"], "written": texts[0], "log_probs": beams.log_probs.tolist()}


if __name__ == "__main__":
    main()
