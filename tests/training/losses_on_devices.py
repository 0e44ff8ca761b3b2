"""Every loss and its gradient inside `jax.shard_map` with its default checks, beside those of one device.

Run by `test_losses_on_devices.py` in a process of its own, on four emulated devices. Prints the largest difference of
each case, relative to the largest entry of what one device computes.
"""

import json
import os
from typing import Any

# Devices wait for one another, by default 40 s and then they abort: a busy machine takes longer.
os.environ["XLA_FLAGS"] = " ".join([
    os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=4",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
])  # fmt: skip

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from training import SequenceToSequenceLoss, classification_loss, next_token_loss, stream_loss
from training.chunked_loss import chunked_softmax_cross_entropy

jax.config.update("jax_default_matmul_precision", "highest")
ROWS, LENGTH, VOCAB, EMBED = 8, 3, 7, 4  # two rows a device


class Head(eqx.Module):
    """A vector for each token, and a head: a model of every kind that the losses know."""

    table: Any
    weight: Any
    bias: Any

    def hidden(self, source: Any, inputs: Any, *, source_length: Any, key: Any) -> Any:
        return self.table[inputs] + self.table[source][:1] * source_length

    def head_weights(self) -> Any:
        return self.weight, self.bias

    def __call__(self, tokens: Any, state: Any = None, *, key: Any = None) -> Any:
        vectors = jnp.tanh(self.table[tokens])
        if state is not None and state.ndim == 0:  # the length of a text
            return vectors[0] * state @ self.weight.T + self.bias
        logits = vectors @ self.weight.T + self.bias[None]
        return logits if state is None else (logits + state[:1, None], state + vectors[-1])


def chunked_next_token_loss(model: Any, batch: Any, carry: Any, key: Any) -> Any:
    hidden = jnp.tanh(model.table[batch["inputs"]])
    given = hidden, model.weight, None, batch["targets"], batch["weights"]
    return chunked_softmax_cross_entropy(*given, chunk_size=4), carry


CASES = {
    "source to target": SequenceToSequenceLoss(label_smoothing=0.1, chunk_size=4),
    "chunked next token": chunked_next_token_loss,
    "next token": next_token_loss,
    "streams": stream_loss,
    "classification": classification_loss,
}


def batch_and_carry() -> tuple[dict[str, Any], Any]:
    """Devices have different numbers of targets that count, one of them none: loops of different lengths."""
    rng = np.random.default_rng(0)
    ids = lambda *shape: rng.integers(0, VOCAB, shape).astype(np.int32)  # noqa: E731
    weights = np.arange(LENGTH)[None] < np.array([3, 2, 0, 0, 1, 3, 3, 3])[:, None]
    batch = {
        "source": ids(ROWS, LENGTH), "source_length": rng.integers(1, LENGTH, ROWS).astype(np.int32),
        "inputs": ids(ROWS, LENGTH), "targets": ids(ROWS, LENGTH), "weights": weights * np.float32(1.5),
    }  # fmt: skip
    return jax.tree.map(jnp.asarray, batch), jnp.asarray(rng.normal(size=(ROWS, EMBED)), jnp.float32)


def largest_difference(name: str) -> float:
    loss: Any = CASES[name]
    rng = np.random.default_rng(1)
    shapes = (VOCAB, EMBED), (VOCAB, EMBED), (VOCAB,)
    model = Head(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes))
    batch, carry = batch_and_carry()
    if name == "streams":
        batch["reset"] = jnp.asarray(False)
    if name == "classification":
        length = batch["source_length"].astype(jnp.float32)
        batch = {"tokens": batch["inputs"], "tokens_length": length, "labels": batch["targets"][:, 0],
                 "weights": batch["weights"][:, 0]}  # fmt: skip

    def mean(model: Any, weights: Any, batch: Any, carry: Any, total: Any) -> Any:
        sums, _ = loss(model, {**batch, "weights": weights}, carry, None)
        sums = jax.tree.map(total, sums)
        return sums.mean(), sums

    def on_each(model: Any, batch: Any, carry: Any) -> Any:
        """Gradients of the mean over all devices: for the model, which they share, and each row's weights."""
        total = lambda leaf: jax.lax.psum(leaf, "data")  # noqa: E731
        found = jax.value_and_grad(mean, (0, 1), has_aux=True)(model, batch["weights"], batch, carry, total)
        (value, sums), (for_model, for_weights) = found
        return value, sums, for_model, for_weights

    def on_one(model: Any, batch: Any, carry: Any) -> Any:
        found = jax.value_and_grad(mean, (0, 1), has_aux=True)(
            model, batch["weights"], batch, carry, lambda leaf: leaf
        )
        (value, sums), (for_model, for_weights) = found
        return value, sums, for_model, for_weights

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows = jax.tree.map(lambda leaf: P("data") if leaf.ndim else P(), batch)
    mapped = jax.shard_map(on_each, mesh=mesh, in_specs=(P(), rows, P("data")), out_specs=(P(), P(), P(), P("data")))
    ours, one = (jax.device_get(jax.jit(program)(model, batch, carry)) for program in (mapped, on_one))
    largest = lambda tree: max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(tree))  # noqa: E731
    return max(
        largest(jax.tree.map(np.subtract, a, b)) / largest(b) for a, b in zip(ours, one, strict=True) if largest(b)
    )


if __name__ == "__main__":
    print(json.dumps({name: largest_difference(name) for name in CASES}))
