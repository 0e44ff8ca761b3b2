"""How do I train on data of my own?

A source is anything with a length whose items are dictionaries of NumPy arrays of the same shapes, here the rows of
a table. `pipeline` shuffles and batches it by Grain, anew each epoch, and its position can be saved and restored.
"""

import csv
import io
from typing import Any

import jax
import numpy as np

from data.pipeline import pipeline
from training import adamw, classification_loss, fit
from zoo import TextConvNet, TextConvNetConfig

TABLE = """label,text
0,the kettle is broken again
0,"a waste of money, it leaks"
0,the handle fell off at once
1,"a lovely lamp, warm and bright"
1,it works well and looks good
1,the best chair we ever had
"""


class Rows:
    """The rows of a table, their texts as bytes, padded on the right."""

    def __init__(self, table: str):
        self.rows = list(csv.DictReader(io.StringIO(table)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        text = self.rows[i]["text"].encode()
        ids = np.frombuffer(text.ljust(32, b"\0"), np.uint8).astype(np.int32)
        arrays = {"tokens": ids, "tokens_length": len(text), "labels": int(self.rows[i]["label"]), "weights": 1.0}
        return {name: np.asarray(array) for name, array in arrays.items()}


def main() -> dict[str, Any]:
    batches = iter(pipeline(Rows(TABLE), 3, seed=0))
    epochs = [[length for _ in range(2) for length in next(batches)["tokens_length"].tolist()] for _ in range(2)]
    position, expected = batches.get_state(), next(batches)["tokens"]
    batches.set_state(position)
    resumed = bool((next(batches)["tokens"] == expected).all())
    print(f"lengths of the texts in two epochs: {epochs}; restored to the same batch: {resumed}")

    config = TextConvNetConfig(vocab_size=256, num_classes=2, embed_size=16, num_filters=16, hidden_size=16)
    model, training = TextConvNet(config, key=jax.random.key(0)), pipeline(Rows(TABLE), 6, seed=0)
    optimiser = adamw(1e-2, total_steps=40)
    result = fit(model, training, classification_loss, optimiser, steps=40, key=jax.random.key(1), log_every=40)
    return {"epochs": epochs, "resumed": resumed, "accuracy": result.history[-1]["accuracy"]}


if __name__ == "__main__":
    main()
