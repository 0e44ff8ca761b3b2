"""Writes 004.npz: logits of Trax's own TransformerLM with the seed's sizes, on weights of `seed_weights`.

    PYTHONPATH=. python tests/golden/seeds/make_trax.py

In an environment of its own: Python 3.11, trax 1.4.1 (installed with --no-deps), jax and jaxlib 0.4.30, NumPy 1.23,
gym 0.26.2, absl-py, gin-config, six, psutil, funcsigs and matplotlib. Neither TensorFlow nor what comes with it: Trax
imports them for its data, and its models call nothing of them, so stand-ins will do.
"""

import importlib.abc
import importlib.machinery
import importlib.metadata
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from tests.golden.seeds.seed_weights import seed_weights


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules whose every attribute is a mock."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets", "tensorflow_text", "t5"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        types = {name: type(name, (), {}) for name in ("TensorShape", "DType")}  # isinstance needs them
        return mock.MagicMock(__path__=[], __spec__=spec, __name__=spec.name, **types)

    def exec_module(self, module):
        pass


def main():
    sys.meta_path.insert(0, StandIns())
    import trax  # pyright: ignore[reportMissingImports]

    jax.config.update("jax_default_matmul_precision", "highest")
    model = trax.models.TransformerLM(d_model=32, d_ff=128, n_layers=2, vocab_size=32, mode="eval")
    model.init(trax.shapes.ShapeDtype((1, 1), np.int32))
    flat = trax.fastmath.tree_flatten(model.weights)
    ours = seed_weights({str(i): array.shape for i, array in enumerate(flat)})
    model.weights, _ = trax.fastmath.tree_unflatten(list(ours.values()), model.weights)
    tokens = np.random.RandomState(1).randint(0, 32, (4, 10)).astype(np.int32)
    versions = {package: importlib.metadata.version(package) for package in ("trax", "jax", "numpy")}
    np.savez_compressed(
        Path(__file__).parent / "004.npz",
        tokens=tokens,
        logits=np.asarray(model(tokens)),
        shapes=np.array([str(array.shape) for array in flat]),
        versions=np.array([f"{package} {version}" for package, version in versions.items()]),
    )


if __name__ == "__main__":
    main()
