"""One process of `test_loading_speed.py`: loads a Hugging Face folder and prints how long and how much it took.

    python loading.py ours|theirs|halves|step FOLDER

`ours` and `theirs` go on to the first logits, `halves` spreads all weights over two emulated devices, `step` makes
steps of SGD. Memory is RssAnon, that is without mapped pages of the file, above what it was before loading.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path


class Peak:
    """The largest RssAnon of this process since it was made, above what it was then, looked at every millisecond."""

    def __init__(self):
        self.begun = self.most = anonymous()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self):
        while True:
            self.most = max(self.most, anonymous())
            time.sleep(0.001)

    def bytes(self) -> int:
        return max(self.most, anonymous()) - self.begun


def anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def ours(folder: str) -> dict:
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import zoo

    jnp.zeros(1).block_until_ready()  # XLA itself
    peak, begun = Peak(), time.perf_counter()
    model = jax.block_until_ready(zoo.from_pretrained(folder))
    loaded, loading = time.perf_counter() - begun, peak.bytes()
    eqx.filter_jit(model)(jnp.arange(8)).block_until_ready()
    return {"loaded_s": loaded, "logits_s": time.perf_counter() - begun, "loading": loading, "peak": peak.bytes()}


def theirs(folder: str) -> dict:
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_grad_enabled(False)
    peak, begun = Peak(), time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    loaded, loading = time.perf_counter() - begun, peak.bytes()
    model(torch.arange(8)[None])
    return {"loaded_s": loaded, "logits_s": time.perf_counter() - begun, "loading": loading, "peak": peak.bytes()}


def halves(folder: str) -> dict:
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    import jax
    import jax.numpy as jnp
    import numpy as np

    import zoo

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("devices",))

    def sharding(name, shape):
        """Along the longest axis that two divides."""
        axis = max((axis for axis, size in enumerate(shape) if size % 2 == 0), key=lambda axis: shape[axis])
        parts = ["devices" if a == axis else None for a in range(len(shape))]
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*parts))

    jnp.zeros(1).block_until_ready()
    peak = Peak()
    model = jax.block_until_ready(zoo.from_pretrained(folder, sharding=sharding))
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(model):
        for shard in getattr(leaf, "addressable_shards", ()):
            held[shard.device] += shard.data.nbytes
    return {"peak": peak.bytes(), "held": list(held.values())}


def step(folder: str) -> dict:
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import zoo

    @eqx.filter_jit(donate="all")
    def update(model, tokens):
        def loss(model):
            logits = model(tokens[:-1])
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[1:, None], axis=-1))

        value, gradients = eqx.filter_value_and_grad(loss)(model)
        return value, eqx.apply_updates(model, jax.tree.map(lambda g: -1e-2 * g, gradients))

    jnp.zeros(1).block_until_ready()
    peak = Peak()
    model = zoo.from_pretrained(folder)
    tokens = jnp.arange(65) % 31
    first, model = update(model, tokens)
    second, model = update(model, tokens)
    return {"peak": peak.bytes(), "losses": [float(first), float(second)]}


if __name__ == "__main__":
    side, folder = sys.argv[1:]
    print(json.dumps({"ours": ours, "theirs": theirs, "halves": halves, "step": step}[side](folder)))
