"""Loading a Hugging Face folder: time to the first logits against transformers, and the peak of memory."""

import statistics
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from own_process import Side, answer

import zoo
from zoo import TransformerLM, TransformerLMConfig

SCRIPT = str(Path(__file__).with_name("loading.py"))
SMALL = TransformerLMConfig.gpt2(vocab_size=64, embed_size=16, num_layers=2, num_heads=2, max_length=128)
GPT2 = TransformerLMConfig.gpt2()  # 124 M: 498 MB of float32
LARGE = TransformerLMConfig.llama(
    embed_size=2048, num_layers=22, num_heads=32, num_kv_heads=4, mlp_size=6144, max_length=2048
)  # 1.2 B


def write(folder, config, dtype=np.float32):
    """Writes a folder of small random weights; its tensors' size in bytes."""
    values = (0.02 * np.random.default_rng(0).normal(size=10**6)).astype(dtype)
    skeleton = eqx.filter_eval_shape(TransformerLM, config, key=jax.random.key(0))
    model = jax.tree.map(
        lambda leaf: jnp.asarray(np.resize(values, leaf.shape)) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf,
        skeleton,
    )
    zoo.to_pretrained(folder, model)
    return (folder / "model.safetensors").stat().st_size


@pytest.fixture
def folder(full_size, tmp_path):
    """A folder, and the size of its tensors in bytes."""
    return tmp_path, write(tmp_path, GPT2 if full_size else SMALL)


def run(side, folder):
    return answer(SCRIPT, Side([side, folder], tuned=False))


@pytest.mark.slow
def test_loading_beside_transformers(folder, full_size, note, benchmark):
    pytest.importorskip("transformers")
    path, size = folder
    rounds = [(run("ours", path), run("theirs", path)) for _ in range(3 if full_size else 1)]
    ours, theirs = ([pair[side] for pair in rounds] for side in (0, 1))
    seconds = [statistics.median(one["logits_s"] for one in side) for side in (ours, theirs)]
    loading = [statistics.median(one["loaded_s"] for one in side) for side in (ours, theirs)]
    peak = max(one["loading"] for one in ours)
    benchmark.pedantic(lambda: None)
    note(
        f"loading {size / 1e6:.0f} MB: first logits after {seconds[0]:.2f} s, transformers {seconds[1]:.2f} s "
        f"(loaded after {loading[0]:.2f} and {loading[1]:.2f} s); peak of RssAnon {peak / size:.2f} x the weights",
        ours_s=seconds[0], theirs_s=seconds[1], peak=peak / size,
    )  # fmt: skip
    if full_size:
        assert peak <= 1.15 * size


def test_two_devices_hold_a_half_each(folder, full_size, note, benchmark):
    path, size = folder
    measured = run("halves", path)
    benchmark.pedantic(lambda: None)
    note(
        f"two devices hold {[f'{held / size:.2f}' for held in measured['held']]}, peak {measured['peak'] / size:.2f}"
    )
    assert max(measured["held"]) <= 0.51 * size
    if full_size:
        assert measured["peak"] <= 1.15 * size


@pytest.mark.slow
def test_a_step_of_training_what_was_loaded(folder, full_size, note, benchmark):
    path, size = folder
    measured = run("step", path)
    benchmark.pedantic(lambda: None)
    note(f"a step of SGD after loading {size / 1e6:.0f} MB: peak {measured['peak'] / size:.2f} x the weights")
    assert measured["losses"][1] < measured["losses"][0]


@pytest.mark.slow
def test_a_model_of_1_2_billion_in_bfloat16(full_size, note, benchmark, tmp_path):
    size = write(tmp_path, LARGE if full_size else SMALL, jnp.bfloat16)
    measured = run("ours", tmp_path)
    benchmark.pedantic(lambda: None)
    note(f"loading {size / 2e9:.2f} B parameters in bfloat16: peak {measured['loading'] / 1e9:.2f} GB")
    if full_size:
        assert measured["loading"] <= 3.2e9
