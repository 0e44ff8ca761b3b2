"""How do I embed texts and search them?

With a pretrained model, `zoo.text.Embedder.from_pretrained(folder)(texts)` does it. Here one is trained: to find each
question's own text among all (van den Oord et al., 2018). Of new questions it then answers most: half of them before.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from training import Sums, adamw, fit, softmax_cross_entropy
from zoo import TextConvNet, TextConvNetConfig

TEXTS = """The museum opens at nine and closes at six  when does the museum open  at what hour does the museum close
Bread is baked in the hot oven for an hour  how do I bake bread  which oven is the bread baked in
The train to the coast leaves from track two  where does the train leave  from which track does the coast train go
Water boils at a hundred degrees  when does water boil  at how many degrees does water boil
The library lends books for a month  how long may I keep books  who lends books for a month
A cat sleeps most of the day  how long does a cat sleep  do cats sleep all day"""
texts, asked, unseen = zip(*(line.split("  ") for line in TEXTS.lower().splitlines()), strict=True)
WORDS = sorted({word for text in (*texts, *asked) for word in text.split()})


def to_ids(texts: Any) -> tuple[np.ndarray, np.ndarray]:
    rows = [[WORDS.index(word) + 1 if word in WORDS else 0 for word in text.split()] for text in texts]
    return np.array([row + [0] * (12 - len(row)) for row in rows]), np.array([len(row) for row in rows])


@eqx.filter_jit
def embed(model: TextConvNet, tokens: Any, lengths: Any) -> jax.Array:
    vectors = jax.vmap(model)(jnp.asarray(tokens), jnp.asarray(lengths))
    return vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)  # products are then cosines


def contrastive_loss(model: Any, batch: Any, carry: Any, key: Any) -> tuple[Sums, Any]:
    similarity = embed(model, *batch["questions"]) @ embed(model, *batch["texts"]).T
    return softmax_cross_entropy(5 * similarity, jnp.arange(len(texts)), jnp.ones(len(texts))), carry


def main() -> dict[str, Any]:
    config = TextConvNetConfig(  # the mean and the maximum of a text's word vectors, projected to 32 "classes"
        vocab_size=len(WORDS) + 1, num_classes=32, embed_size=64, branches=(), pool_embedding=True, hidden_size=None
    )
    model = eqx.nn.inference_mode(TextConvNet(config, key=jax.random.key(1)))  # without dropout
    optimiser = adamw(1e-3, total_steps=60)
    batches = [{"questions": to_ids(asked), "texts": to_ids(texts)}] * 60
    tuned = fit(model, batches, contrastive_loss, optimiser, steps=60, key=jax.random.key(1), log_every=60).model
    found = [jnp.argmax(embed(m, *to_ids(unseen)) @ embed(m, *to_ids(texts)).T, axis=1) for m in (model, tuned)]
    for question, place in zip(unseen, found[1].tolist(), strict=True):
        print(f"{question}? -> {texts[place]}")
    hits = [int((each == jnp.arange(len(texts))).sum()) for each in found]
    print(f"right: {hits[0]} of {len(texts)} before training, {hits[1]} after it")
    return {"hits": hits, "of": len(texts)}


if __name__ == "__main__":
    main()
