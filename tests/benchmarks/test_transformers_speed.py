"""A language model of a usual size, in Llama's shape, against Hugging Face transformers with the same weights."""

import os
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import TransformerLM, TransformerLMConfig, beam_search, generate

CONFIG = TransformerLMConfig.llama(
    vocab_size=50_257, embed_size=768, num_layers=12, num_heads=12, max_length=1024, tie_embeddings=True
)
SMALL = TransformerLMConfig.llama(vocab_size=61, embed_size=16, num_layers=2, num_heads=2, max_length=64)


def in_transformers(lm):
    """The same model, greedy and uncompiled as its users run it, on all cores."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.set_num_threads(os.cpu_count() or 1)
    sizes = lm.config
    config = transformers.LlamaConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.embed_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        intermediate_size=sizes.mlp_size,
        max_position_embeddings=sizes.max_length,
        rms_norm_eps=sizes.norm_epsilon,
        tie_word_embeddings=sizes.tie_embeddings,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    weights = {"model.embed_tokens.weight": lm.embedding.weight, "model.norm.weight": lm.final_norm.weight}
    weights["lm_head.weight"] = lm.embedding.weight if lm.head is None else lm.head.weight
    for i, block in enumerate(lm.stack.unstack()):
        parts = {
            "input_layernorm": block.attention_norm, "self_attn.q_proj": block.attention.query,
            "self_attn.k_proj": block.attention.key, "self_attn.v_proj": block.attention.value,
            "self_attn.o_proj": block.attention.output, "post_attention_layernorm": block.mlp_norm,
            "mlp.gate_proj": block.mlp.gate, "mlp.up_proj": block.mlp.up, "mlp.down_proj": block.mlp.down,
        }  # fmt: skip
        weights |= {f"model.layers.{i}.{name}.weight": part.weight for name, part in parts.items()}
    theirs.load_state_dict({name: torch.from_numpy(np.array(weight)) for name, weight in weights.items()})

    def answer(prompts, new, num_beams=1):
        with torch.inference_mode():
            out = theirs.generate(
                torch.from_numpy(np.atleast_2d(prompts)).long(), max_new_tokens=new, min_new_tokens=new,
                do_sample=False, num_beams=num_beams,
            )  # fmt: skip
        return out.numpy()[:, np.atleast_2d(prompts).shape[1] :]

    return answer


@pytest.mark.parametrize(("rows", "num_beams"), [(1, 1), (8, 1), (1, 4)], ids=["one row", "eight rows", "four beams"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.benchmark(group="transformers")
def test_generate_against_transformers(full_size, compare, fill, rows, num_beams, dtype):
    lm = fill(lambda key: TransformerLM(CONFIG if full_size else SMALL, key=key), scale=0.05)
    theirs = in_transformers(lm)
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
    name = f"124 M, 64 + 64 tokens, {rows} rows, {num_beams} beams, {dtype}"
    compare(f"{name}, against transformers in float32", ours, partial(theirs, prompts, new, num_beams), rounds=3)
