"""What the zoo does on a GPU: one command of a few minutes, whose figures are ratios side by side.

    python tests/benchmarks/on_gpu.py [FILE.json]

GPT-2's 124 M: a training step in bfloat16 as a share of the peak of a plain product, beside the same model in PyTorch
with torch.compile (where that is installed); decoding one and 32 rows beside the bandwidth of a copy; attention
beside cuDNN's. Float32 logits beside the CPU's, and whether a training repeats itself to the bit, in two processes.
"""

import functools
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from training import adamw, in_precision, init_state, make_step, next_token_loss
from zoo import TransformerLM, TransformerLMConfig, count_parameters, generate
from zoo.nn import attend, causal_mask

# nanoGPT's GPT-2: without biases and with the exact gelu, as `plain_torch.GPT` is.
GPT2 = TransformerLMConfig.gpt2(activation="gelu", use_bias=False, dropout_p=0.0)
SMALL = TransformerLMConfig.gpt2(vocab_size=512, embed_size=128, num_layers=4, num_heads=4, max_length=128)
ROWS, LENGTH = 16, 1024
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def seconds(run: Callable[[], Any], times: int = 10, warm: int = 3) -> float:
    """The median time of a call that waits for its own result."""
    for _ in range(warm):
        run()
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        found.append(time.perf_counter() - begun)
    return sorted(found)[times // 2]


def peak() -> float:
    """Operations a second of a large bfloat16 product, ten in a row so that no launch counts."""
    x = jax.random.normal(jax.random.key(0), (8192, 8192), jnp.bfloat16)
    ten = jax.jit(lambda x: functools.reduce(lambda y, _: (y @ x) / 90, range(10), x))
    return 10 * 2 * 8192**3 / seconds(lambda: ten(x).block_until_ready())


def bandwidth() -> float:
    """Bytes a second of `x + 1`, read and written."""
    x = jnp.zeros(2**28, jnp.float32)
    return 2 * x.nbytes / seconds(lambda: (x + 1).block_until_ready())


def batch_of(rows: int, length: int, vocab_size: int) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(0).integers(0, vocab_size, (rows, length + 1), np.int32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": np.ones((rows, length), np.float32)}


def train(most: float) -> dict[str, Any]:
    lm = eqx.filter_jit(TransformerLM)(GPT2, key=jax.random.key(0))
    batch = batch_of(ROWS, LENGTH, GPT2.vocab_size)
    operations = ROWS * LENGTH * (6 * count_parameters(lm) + 12 * GPT2.num_layers * GPT2.embed_size * LENGTH / 2)
    figures: dict[str, Any] = {}
    optimiser = adamw(1e-4, total_steps=1000)
    step = make_step(in_precision(next_token_loss, "bfloat16"), optimiser)
    state = init_state(lm, optimiser, key=jax.random.key(1))
    on_device = jax.device_put(batch)

    def ours() -> float:
        nonlocal state
        state, report = step(on_device, state)
        return float(report.sums.mean())

    begun = time.perf_counter()
    figures["first loss"] = ours()
    figures["compile seconds"] = time.perf_counter() - begun
    figures["step ms"] = 1e3 * seconds(ours)
    figures["share of the peak"] = operations / (figures["step ms"] / 1e3) / most
    figures["memory GB"] = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e9
    del state
    return figures


def train_torch(most: float) -> dict[str, Any]:
    import torch  # pyright: ignore[reportMissingImports]
    import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
    from plain_torch import GPT  # pyright: ignore[reportMissingImports]

    gpt = GPT(GPT2.vocab_size, GPT2.embed_size, GPT2.num_layers, GPT2.num_heads, GPT2.max_length).cuda()
    fast: Any = torch.compile(gpt)
    optimiser = torch.optim.AdamW(gpt.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    batch = batch_of(ROWS, LENGTH, GPT2.vocab_size)
    inputs, targets = (torch.from_numpy(batch[name]).long().cuda() for name in ("inputs", "targets"))

    def theirs() -> float:
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(fast(inputs).flatten(0, 1), targets.flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.item()

    return {"step ms": 1e3 * seconds(theirs)}


def tokens_of(decoder: Any, prompts: list[list[int]], new: int) -> np.ndarray:
    return np.asarray(generate(decoder, prompts, max_new_tokens=new).tokens)


def decode(copied: float) -> dict[str, Any]:
    lm = eqx.filter_jit(TransformerLM)(GPT2, key=jax.random.key(0))
    figures: dict[str, Any] = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        cast = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype) if eqx.is_array(x) else x, lm)
        decoder = cast.decoder()
        weights = sum(x.nbytes for x in jax.tree.leaves(eqx.filter(decoder, eqx.is_array)))
        for rows in (1, 32):
            prompts = np.random.default_rng(0).integers(0, GPT2.vocab_size, (rows, 64)).tolist()
            few, many = (seconds(functools.partial(tokens_of, decoder, prompts, new), 5, 2) for new in (1, 65))
            token = (many - few) / 64
            name = f"{jnp.dtype(dtype).name}, {rows} row{'s' * (rows > 1)}"
            figures[name] = {
                "ms a token": 1e3 * token,
                "tokens/s": rows / token,
                "weights' bytes as a share of the bandwidth": weights / token / copied,
            }
    return figures


def attention() -> dict[str, Any]:
    """Forward and backward, causal, (batch, heads, length, head size) = (16, 12, 1024, 64), in bfloat16."""
    shape = (ROWS, GPT2.num_heads, LENGTH, 64)
    q, k, v = (jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i in range(3))
    mask = causal_mask(LENGTH)

    def ours(q: Any, k: Any, v: Any) -> Any:
        return jax.vmap(lambda q, k, v: attend(q, k, v, scale=1 / 8, mask=mask))(q, k, v)

    def cudnn(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
        out = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
        return out.transpose(0, 2, 1, 3)

    figures: dict[str, Any] = {}
    for name, f in (("ours ms", ours), ("cuDNN ms", cudnn)):
        gradient = jax.jit(jax.grad(lambda q, k, v, f=f: jnp.sum(f(q, k, v).astype(jnp.float32) ** 2), (0, 1, 2)))
        figures[name] = 1e3 * seconds(lambda g=gradient: jax.block_until_ready(g(q, k, v)))
    difference = jax.jit(ours)(q, k, v).astype(jnp.float32) - jax.jit(cudnn)(q, k, v).astype(jnp.float32)
    return figures | {"largest difference": float(jnp.abs(difference).max())}


def agreement() -> dict[str, Any]:
    """Float32 logits of a small model on the GPU beside the CPU's, with full products and with the default's."""
    lm = eqx.nn.inference_mode(TransformerLM(SMALL, key=jax.random.key(0)))
    tokens = jnp.arange(100) % SMALL.vocab_size
    cpu = jax.devices("cpu")[0]
    arrays, static = eqx.partition(lm, eqx.is_array)
    run = jax.jit(lambda arrays, tokens: eqx.combine(arrays, static)(tokens))
    with jax.default_matmul_precision("highest"):
        expected = np.asarray(run(*jax.device_put((arrays, tokens), cpu)))
        exact = np.asarray(run(arrays, tokens))
    plain = np.asarray(jax.jit(lambda arrays, tokens: eqx.combine(arrays, static)(tokens))(arrays, tokens))
    return {"highest": float(np.abs(exact - expected).max()), "default": float(np.abs(plain - expected).max())}


def digest() -> str:
    """Of all that a training of 30 steps leaves, with dropout and gradients of embeddings."""
    optimiser = adamw(1e-3, total_steps=30)
    step = make_step(in_precision(next_token_loss, "bfloat16"), optimiser)
    state = init_state(TransformerLM(SMALL, key=jax.random.key(0)), optimiser, key=jax.random.key(1))
    batch = batch_of(32, 128, SMALL.vocab_size)
    for _ in range(30):
        state, _ = step(batch, state)
    hashed = hashlib.sha256()
    for leaf in jax.tree.leaves(eqx.filter(state.model, eqx.is_array)):
        hashed.update(np.asarray(leaf).tobytes())
    return hashed.hexdigest()


def repeats() -> dict[str, bool]:
    found = {}
    for name, flags in (("by default", ""), (f"with {DETERMINISTIC}", DETERMINISTIC)):
        environment = {**os.environ, "XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        command = [sys.executable, __file__, "--digest"]
        two = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
        found[name] = two[0].stdout == two[1].stdout
    return found


def main() -> None:
    if sys.argv[1:] == ["--digest"]:
        print(digest())
        return
    if jax.default_backend() != "gpu":
        sys.exit("error: JAX sees no GPU here")
    figures: dict[str, Any] = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    most, copied = peak(), bandwidth()
    figures |= {"peak TFLOP/s": most / 1e12, "bandwidth GB/s": copied / 1e9}
    parts: list[tuple[str, Callable[[], Any]]] = [
        ("attention", attention),
        ("logits beside the CPU's", agreement),
        ("two trainings are equal to the bit", repeats),
        ("decoding", lambda: decode(copied)),
        ("training step", lambda: train(most)),
        ("training step, PyTorch", lambda: train_torch(most)),
    ]
    print(json.dumps(figures), flush=True)
    for name, part in parts:
        begun = time.perf_counter()
        try:
            figures[name] = part()
        except Exception as error:  # one part that fails leaves the others their figures
            figures[name] = f"{type(error).__name__}: {str(error)[:500]}"
        print(f"{name} ({time.perf_counter() - begun:.0f} s): {json.dumps(figures[name])}", flush=True)
        jax.clear_caches()
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    main()
