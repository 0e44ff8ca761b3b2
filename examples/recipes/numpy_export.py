"""How do I get the weights out as NumPy arrays, and back?

`named_arrays` is a flat dictionary of all arrays by name; `with_arrays` puts such a dictionary into a model, or into
the shapes of one, and refuses what does not fit.
"""

import tempfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from zoo import TransformerLM, TransformerLMConfig
from zoo.serialisation import named_arrays, with_arrays


def main() -> dict[str, Any]:
    config = TransformerLMConfig(vocab_size=10, embed_size=32, num_layers=1, num_heads=4, mlp_size=64, max_length=8)
    lm = TransformerLM(config, key=jax.random.key(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "weights.npz")  # float32; NumPy's files know no bfloat16, so cast that first
        arrays: Any = named_arrays(lm)
        np.savez(file, **arrays)
        with np.load(file) as loaded:
            exported = dict(loaded)

    skeleton = eqx.filter_eval_shape(TransformerLM, config, key=jax.random.key(0))  # shapes alone, no memory
    again = with_arrays(skeleton, exported)
    tokens = jnp.array([0, 3, 1, 4, 0])
    same = bool(jnp.array_equal(lm(tokens), again(tokens)))

    # Names and layouts are plain: the head, computed by NumPy from the vectors that go into it.
    hidden = np.asarray(lm.hidden(tokens))
    by_numpy = hidden @ exported["head.weight"].T + exported["head.bias"]
    apart = float(np.abs(by_numpy - np.asarray(lm(tokens))).max())

    for name in list(exported)[:4]:
        print(f"{name:40} {exported[name].shape}")
    print(f"... {len(exported)} arrays. Read back, the model gives the same logits to the last bit: {same}")
    print(f"NumPy's logits differ by {apart:.1e} at most")
    refused = ""
    try:
        with_arrays(skeleton, {**exported, "head.weight": exported["head.weight"].T})
    except ValueError as error:
        refused = str(error)
        print(f"a transposed matrix is refused: {refused}")
    return {"arrays": len(exported), "same": same, "apart": apart, "refused": refused}


if __name__ == "__main__":
    main()
