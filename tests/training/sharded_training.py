"""Trains small models on eight emulated devices in several layouts, and prints what came of it as JSON.

Run by test_sharding.py: the number of devices that a CPU plays can be set only before JAX is used.
"""

import json
import os
import sys
from typing import Any

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import equinox as eqx
import jax
import numpy as np

from training import (
    Evaluation,
    Execution,
    SequenceToSequenceLoss,
    Sharding,
    adamw,
    fit,
    init_state,
    next_token_loss,
    stream_carry,
    stream_loss,
)
from zoo import (
    CharRNN,
    CharRNNConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
    Temperature,
    TransformerLM,
    TransformerLMConfig,
    decode,
)

ROWS, LENGTH, VOCAB = 16, 12, 32


def lm_batches(steps: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Each row repeats a few tokens, so that there is something to learn; weights are unequal."""
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(steps):
        tokens = np.resize(rng.integers(0, VOCAB, (ROWS, 4)).T, (LENGTH + 1, ROWS)).T.astype(np.int32)
        weights = (np.arange(LENGTH)[None, :] < rng.integers(1, LENGTH + 1, (ROWS, 1))).astype(np.float32)
        batches.append({"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights})
    return batches


def translation_batches(steps: int) -> list[dict[str, np.ndarray]]:
    lengths = np.random.default_rng(1).integers(1, LENGTH + 1, (steps, ROWS)).astype(np.int32)
    return [
        {**batch, "source": batch["targets"], "source_length": length}
        for batch, length in zip(lm_batches(steps), lengths, strict=True)
    ]


def cases(steps: int) -> dict[str, tuple[Any, Any, Any, Any]]:
    """Model, loss, batches and carry by name; dropout and everything else that is random included."""
    key = jax.random.key(0)
    rnn = CharRNN(CharRNNConfig(vocab_size=VOCAB, hidden_size=16, num_layers=2, cell="lstm"), key=key)
    carry = stream_carry(rnn, ROWS)
    streams = [{**batch, "reset": np.array(i == 0)} for i, batch in enumerate(lm_batches(steps))]
    return {
        "TransformerLM": (
            TransformerLM(
                TransformerLMConfig(
                    vocab_size=VOCAB,
                    embed_size=32,
                    num_layers=1 if steps < 50 else 2,
                    num_heads=4,
                    mlp_size=64,
                    max_length=LENGTH,
                    dropout_p=0.1,
                ),
                key=key,
            ),
            next_token_loss,
            lm_batches(steps),
            None,
        ),
        "EncoderDecoder": (
            EncoderDecoder(
                EncoderDecoderConfig(
                    vocab_size=VOCAB, embed_size=32, num_layers=1, num_heads=4, mlp_size=64, max_length=LENGTH
                ),
                key=key,
            ),
            SequenceToSequenceLoss(label_smoothing=0.1, chunk_size=32),
            translation_batches(steps),
            None,
        ),
        "CharRNN": (rnn, stream_loss, streams, carry),
    }


def losses(
    model: Any, loss: Any, batches: Any, carry: Any, execution: Execution | None = None
) -> tuple[list[float], Any]:
    steps, sharding = len(batches), execution and execution.sharding
    optimiser = adamw(3e-3, total_steps=steps, weight_decay=0.1, clip_norm=1.0)
    state = init_state(model, optimiser, key=jax.random.key(1), carry=carry, sharding=sharding)
    evaluation = Evaluation(batches[:2], every=steps // 2)
    result = fit(
        state, batches, loss, optimiser, steps=steps, evaluation=evaluation, execution=execution, log_every=10**6
    )
    return [record["loss"] for record in result.history if "loss" in record] + [result.best_value], result


def bytes_per_device(state: Any) -> int:
    """Of weights and optimiser on the fullest device."""
    held: dict[Any, int] = {}
    for leaf in jax.tree.leaves(eqx.filter((state.model, state.opt_state), eqx.is_array)):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values())


def written(sharding: Any) -> dict[str, Any]:
    """Tokens that a model writes on one device, and with the rows of its prompts on eight; how many had some."""
    lm = TransformerLM(
        TransformerLMConfig(
            vocab_size=VOCAB, embed_size=32, num_layers=1, num_heads=4, mlp_size=64, max_length=LENGTH
        ),
        key=jax.random.key(0),
    )
    prompts = np.random.default_rng(0).integers(0, VOCAB, (ROWS, 4)).astype(np.int32)

    @eqx.filter_jit
    def write(decoder: Any, prompts: Any) -> Any:
        options = {"capacity": LENGTH, "max_new_tokens": 8, "sampler": Temperature(0.7), "key": jax.random.key(1)}
        return decode(decoder, prompts, **options).tokens

    rows, decoder = (
        sharding.rows({"prompts": prompts})["prompts"],
        sharding.put(lm.decoder(), sharding.replicated),
    )
    one, many = write(lm.decoder(), prompts), write(decoder, rows)
    return {"one": one.tolist(), "many": many.tolist(), "devices": len(many.devices())}


def main(steps: int, names: list[str]) -> None:
    out: dict[str, Any] = {"losses": {}}
    layouts = {"one": Sharding.single(), "data": Sharding.over(), "fsdp": Sharding.over(fsdp=True)}
    for name, case in cases(steps).items():
        if name not in names:
            continue
        for layout, sharding in layouts.items():
            out["losses"][f"{name} {layout}"], result = losses(*case, execution=Execution(sharding=sharding))
            if name == "TransformerLM":
                out[f"bytes {layout}"] = bytes_per_device(result.state)
                out[f"whole {layout}"] = all(
                    len(leaf.devices()) == 1 for leaf in jax.tree.leaves(eqx.filter(result.model, eqx.is_array))
                )
    if "accumulated" in names:
        model, *case = cases(steps)["TransformerLM"]
        still = eqx.nn.inference_mode(model)  # parts of a batch draw other dropout than the whole
        out["losses"]["still one"], _ = losses(still, *case)
        out["losses"]["still accumulated"], _ = losses(still, *case, execution=Execution(2, sharding=layouts["fsdp"]))
    if "written" in names:
        out["written"] = written(layouts["data"])
    print(json.dumps(out))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
