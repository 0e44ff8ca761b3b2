"""How do I train on several devices?

Give `fit` a `Sharding`: rows of each batch are split over the devices and, with `fsdp=True`, weights and optimiser
state too. Neither model nor loss knows of it. A CPU plays as many devices as one asks for before JAX computes
anything.
"""

from typing import Any

import jax

from data.pipeline import pipeline
from data.synthetic import SequenceTask
from training import Execution, FitResult, Sharding, adamw, fit, next_token_loss
from zoo import TransformerLM, TransformerLMConfig


def train(sharding: Sharding, steps: int = 5) -> FitResult:
    config = TransformerLMConfig(vocab_size=10, embed_size=32, num_layers=1, num_heads=4, mlp_size=64, max_length=8)
    return fit(
        TransformerLM(config, key=jax.random.key(0)),
        # `shard` is this process's part of each batch: all of it, unless several processes train together.
        pipeline(SequenceTask("copy", length=3, max_value=9), 64, seed=None, shard=sharding.shard),
        next_token_loss,
        adamw(1e-2, total_steps=steps),
        steps=steps,
        key=jax.random.key(1),
        execution=Execution(sharding=sharding),
        log_every=steps,
    )


def main() -> dict[str, Any]:
    jax.config.update("jax_num_cpu_devices", 4)  # no effect on a machine with accelerators: there all are used
    one, many = train(Sharding.single()), train(Sharding.over(fsdp=True))
    weight = many.state.model.stack.blocks.mlp.up.weight
    piece = weight.addressable_shards[0].data
    apart = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in zip(one.history, many.history, strict=True))
    print(f"{len(weight.sharding.device_set)} devices, each with {piece.size} of {weight.size} numbers of a weight")
    print(f"losses of 5 steps differ from those of one device by {apart:.1e} of themselves at most")
    return {"devices": len(weight.sharding.device_set), "piece": piece.size / weight.size, "apart": apart}


if __name__ == "__main__":
    main()
