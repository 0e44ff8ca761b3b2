"""How do I replace a head, for other classes?

`rebuild` changes the config together with the weights, so that the new model can be saved; `eqx.tree_at` then puts a
fresh layer in the place of the rows that it carried over.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np

from training import FitResult, adamw, classification_loss, fit
from zoo import TextConvNet, TextConvNetConfig, rebuild
from zoo.nn import Linear

TEXTS = {
    "cooking": ["stir the soup slowly", "bake the bread until brown", "salt the boiling water"],
    "weather": ["rain falls on the hills", "a cold wind blows", "clouds hide the sun"],
    "music": ["she tunes the old violin", "the choir sings at noon", "a drum beats the rhythm"],
}
LENGTH = 32


def train(model: TextConvNet, classes: Sequence[str], steps: int) -> FitResult:
    rows = [(text.encode(), label) for label, name in enumerate(classes) for text in TEXTS[name]]
    batch = {
        "tokens": np.stack([np.frombuffer(text.ljust(LENGTH), np.uint8).astype(np.int32) for text, _ in rows]),
        "tokens_length": np.array([len(text) for text, _ in rows]),
        "labels": np.array([label for _, label in rows]),
        "weights": np.ones(len(rows), np.float32),
    }
    optimiser = adamw(1e-2, total_steps=steps)
    return fit(
        model, [batch] * steps, classification_loss, optimiser, steps=steps, key=jax.random.key(1), log_every=steps
    )


def main() -> dict[str, Any]:
    config = TextConvNetConfig(vocab_size=128, num_classes=2, embed_size=16, num_filters=16, hidden_size=16)
    two = train(TextConvNet(config, key=jax.random.key(0)), ["cooking", "weather"], 25).model

    rebuilt = rebuild(two, num_classes=3, key=jax.random.key(2))  # a third row, and the first two as they were
    fresh = Linear(16, 3, scale=0.1, key=jax.random.key(3))  # for classes that are others altogether
    three = eqx.tree_at(lambda model: model.head, rebuilt, fresh)
    same_rows = bool((rebuilt.head.weight[:2] == two.head.weight).all())
    same_body = bool(eqx.tree_equal(three.embedding, two.embedding))

    history = train(three, ["music", "cooking", "weather"], 40).history
    first, last = history[0]["loss"], history[-1]["loss"]
    print(f"head {two.head.weight.shape} -> {three.head.weight.shape}; the body is the same: {same_body}")
    print(f"loss on three classes: {first:.2f} (ln 3 = {np.log(3):.2f}) -> {last:.2f}")
    return {"same_rows": same_rows, "same_body": same_body, "losses": (first, last)}


if __name__ == "__main__":
    main()
