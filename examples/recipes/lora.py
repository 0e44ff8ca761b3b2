"""How do I fine-tune with LoRA?

`add_lora` puts two thin matrices beside dense layers of a model; `lora_filter` says that only they are trained. They
are saved apart, or merged into the weights, which gives a plain model again.
"""

import tempfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from data.pipeline import pipeline
from data.synthetic import SequenceTask, Task
from training import FitResult, adamw, fit, init_state, next_token_loss
from zoo import LoRA, TransformerLM, TransformerLMConfig, add_lora, count_parameters, lora_filter, merge_lora, save


def train(model: TransformerLM, task: Task, trainable: Any, steps: int) -> FitResult:
    optimiser = adamw(1e-2, total_steps=steps)
    state = init_state(model, optimiser, trainable=trainable, key=jax.random.key(1))
    batches = pipeline(SequenceTask(task, length=3, max_value=9), 32, seed=None)
    return fit(state, batches, next_token_loss, optimiser, steps=steps, log_every=steps)


def main() -> dict[str, Any]:
    config = TransformerLMConfig(vocab_size=10, embed_size=32, num_layers=1, num_heads=4, mlp_size=64, max_length=8)
    base = train(TransformerLM(config, key=jax.random.key(0)), "copy", eqx.is_inexact_array, 80).model

    # All Linears by default; a choice is written as for `eqx.tree_at`, such as
    # where=lambda lm: (lm.stack.blocks.attention.query, lm.stack.blocks.attention.value).
    adapted = add_lora(base, 4, key=jax.random.key(2))
    result = train(adapted, "reverse", lora_filter(adapted), 80)
    tuned, merged = result.model, merge_lora(result.model)

    updates, frozen = eqx.partition(tuned, lora_filter(tuned))
    same = bool(eqx.tree_equal(frozen, eqx.partition(adapted, lora_filter(adapted))[1]))
    first, last = result.history[0]["loss"], result.history[-1]["loss"]
    tokens = jnp.array([0, 3, 1, 4, 0, 4, 1])
    apart = float(jnp.abs(tuned(tokens) - merged(tokens)).max())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "reverse.lora.safetensors")
        save(file, LoRA.of(tuned), extra={"base": "copies-integers", "licence": "Apache-2.0"})
        size = file.stat().st_size
    print(f"{count_parameters(updates):,} of {count_parameters(tuned):,} numbers trained, {size / 1000:.1f} kB saved")
    print(f"loss {first:.3f} -> {last:.3f}; the other weights are the same to the last bit: {same}")
    print(f"logits of the merged model differ by {apart:.1e} at most")
    return {"trained": count_parameters(updates), "of": count_parameters(base), "same": same, "apart": apart,
            "losses": (first, last), "bytes": size}  # fmt: skip


if __name__ == "__main__":
    main()
