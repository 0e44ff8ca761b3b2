"""Language models of a usual size, in the shapes of Llama and GPT-2, against Hugging Face transformers with the same
weights."""

import os
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from zoo import TransformerLM, TransformerLMConfig, beam_search, generate

SMALL = {"vocab_size": 61, "embed_size": 16, "num_layers": 2, "num_heads": 2, "max_length": 64}
CONFIGS = {
    "Llama": TransformerLMConfig.llama(
        vocab_size=50_257, embed_size=768, num_layers=12, num_heads=12, max_length=1024, tie_embeddings=True
    ),
    "GPT-2": TransformerLMConfig.gpt2(),
    "small Llama": TransformerLMConfig.llama(**SMALL),
    "small GPT-2": TransformerLMConfig.gpt2(**SMALL),
}


def in_transformers(lm, folder):
    """The same model, greedy and uncompiled as its users run it, on all cores."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.set_num_threads(os.cpu_count() or 1)
    zoo.to_pretrained(folder, lm)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(prompts, new, num_beams=1):
        with torch.inference_mode():
            out = theirs.generate(
                torch.from_numpy(np.atleast_2d(prompts)).long(), max_new_tokens=new, min_new_tokens=new,
                do_sample=False, num_beams=num_beams,
            )  # fmt: skip
        return out.numpy()[:, np.atleast_2d(prompts).shape[1] :]

    return answer


@pytest.mark.parametrize("shape", ["Llama", "GPT-2"])
@pytest.mark.parametrize(("rows", "num_beams"), [(1, 1), (8, 1), (1, 4)], ids=["one row", "eight rows", "four beams"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.benchmark(group="transformers")
def test_generate_against_transformers(full_size, compare, fill, tmp_path, shape, rows, num_beams, dtype):
    config = CONFIGS[shape if full_size else f"small {shape}"]
    lm = fill(lambda key: TransformerLM(config, key=key), scale=0.05)
    theirs = in_transformers(lm, tmp_path / shape)
    length, new = (64, 64) if full_size else (5, 6)
    prompts = np.random.default_rng(0).integers(0, lm.vocab_size, (rows, length), np.int32)
    prompts = prompts[0] if rows == 1 else prompts
    cast = jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, lm)
    decoder = cast.decoder()

    def ours(new=new):
        if num_beams > 1:
            return beam_search(decoder, prompts, max_new_tokens=new, num_beams=num_beams).tokens[0]
        return generate(decoder, prompts, max_new_tokens=new).tokens

    if dtype == "float32" and not full_size:
        np.testing.assert_array_equal(jnp.atleast_2d(ours()), theirs(prompts, new, num_beams))
    name = f"{shape}, 124 M, 64 + 64 tokens, {rows} rows, {num_beams} beams, {dtype}"
    compare(f"{name}, against transformers in float32", ours, partial(theirs, prompts, new, num_beams), rounds=3)
