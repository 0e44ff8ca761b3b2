"""Live against transformers, if it is installed: `pytest -m parity -n 0 tests/pretrained/test_huggingface_parity.py`.

Of each family random configs: sizes, heads and groups of them, ties, biases, windows shorter than the text. What it
writes we read, and what we write it reads, with the same logits.
"""

import random

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import zoo

pytestmark = pytest.mark.parity
LENGTH, NEW_TOKENS = 24, 20


def sizes(rng):
    num_heads = rng.choice([1, 2, 4, 6])
    return {
        "vocab_size": rng.choice([31, 64]),
        "hidden_size": num_heads * rng.choice([4, 8, 10]),
        "intermediate_size": rng.choice([7, 24, 40]),
        "num_hidden_layers": rng.choice([1, 2, 5]),
        "num_attention_heads": num_heads,
        "num_key_value_heads": rng.choice([n for n in (1, 2, 3, num_heads) if num_heads % n == 0]),
        "max_position_embeddings": 64,
        "rms_norm_eps": rng.choice([1e-6, 1e-5, 1e-3]),
        "tie_word_embeddings": rng.random() < 0.5,
        "bos_token_id": 1,
        "eos_token_id": rng.choice([2, [2, 5, 6]]),
        "pad_token_id": 0,
    }


def rope(rng):
    kind = rng.choice(["default", "linear", "llama3"])
    of_kind = {
        "default": {},
        "linear": {"factor": rng.choice([2.0, 8.0])},
        "llama3": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": rng.choice([2.0, 4.0]),
            "original_max_position_embeddings": rng.choice([8, 32]),
        },
    }  # fmt: skip
    return {"rope_type": kind, "rope_theta": rng.choice([100.0, 1e4, 5e5]), **of_kind[kind]}


def gpt2(rng):
    num_heads = rng.choice([1, 2, 4])
    return "GPT2", {
        "vocab_size": rng.choice([31, 64]), "n_embd": 8 * num_heads, "n_layer": rng.choice([1, 2, 5]),
        "n_head": num_heads, "n_inner": rng.choice([None, 20]), "n_positions": 64, "bos_token_id": 1,
        "activation_function": rng.choice(["gelu_new", "gelu", "relu"]), "eos_token_id": 2,
        "layer_norm_epsilon": rng.choice([1e-5, 1e-3]), "tie_word_embeddings": rng.random() < 0.5,
    }  # fmt: skip


def llama(rng):
    biases = {"attention_bias": rng.random() < 0.5, "mlp_bias": rng.random() < 0.5}
    return "Llama", sizes(rng) | biases | {"rope_parameters": rope(rng)} | head_size(rng)


def head_size(rng):
    return {"head_dim": rng.choice([4, 6, 16])} if rng.random() < 0.5 else {}


def mistral(rng):
    return "Mistral", sizes(rng) | {"sliding_window": rng.choice([None, 1, 5, 63, 100])} | head_size(rng)


def window(rng):
    return {"use_sliding_window": rng.random() < 0.5, "sliding_window": rng.choice([3, 9]), "max_window_layers": 0}


def qwen2(rng):
    return "Qwen2", sizes(rng) | window(rng)


def qwen3(rng):
    return "Qwen3", sizes(rng) | window(rng) | {"head_dim": rng.choice([4, 16]), "attention_bias": rng.random() < 0.5}


def gemma(rng):
    return "Gemma", sizes(rng) | {"tie_word_embeddings": True, "head_dim": rng.choice([4, 6, 16])}


def gemma2(rng):
    _, config = gemma(rng)
    caps = {"attn_logit_softcapping": rng.choice([None, 2.0]), "final_logit_softcapping": rng.choice([None, 3.0])}
    return "Gemma2", config | caps | {
        "sliding_window": rng.choice([3, 9]),
        "query_pre_attn_scalar": rng.choice([5, 16]),
    }


def gemma3(rng):
    _, config = gemma2(rng)
    local = {"rope_type": "default", "rope_theta": rng.choice([50.0, 1e4])}
    ropes = {"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5}, "sliding_attention": local}
    return "Gemma3", config | {"rope_parameters": ropes, "sliding_window_pattern": rng.choice([1, 2, 6])}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "draw", [gpt2, llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3], ids=lambda f: f.__name__
)
def test_of_a_random_config(draw, seed, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    name, config = draw(random.Random(seed))
    torch.manual_seed(seed)
    torch.set_grad_enabled(False)
    cls = getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
    theirs = cls(cls.config_class(**config, attn_implementation="eager")).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "theirs")
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, config["vocab_size"], LENGTH)
    expected = theirs(torch.tensor(tokens[None])).logits[0].numpy()
    close = 2e-5 * max(1.0, np.abs(expected).max())

    ours = zoo.from_pretrained(tmp_path / "theirs")
    padded = jnp.asarray(np.concatenate([tokens, rng.integers(0, config["vocab_size"], 5)]))
    np.testing.assert_allclose(eqx.filter_jit(ours)(padded)[:LENGTH], expected, rtol=0, atol=close)
    prompts = [tokens[:9].tolist(), tokens[:3].tolist(), tokens.tolist()]
    out = zoo.generate(ours.decoder(), prompts, max_new_tokens=NEW_TOKENS)
    for prompt, row, length in zip(prompts, out.tokens, out.length, strict=True):
        given = torch.tensor([prompt])
        # Without a mask, a 0 in the prompt would be taken for padding.
        how = {"attention_mask": torch.ones_like(given), "do_sample": False, "max_new_tokens": NEW_TOKENS}
        # Their cache of a window of 1 keeps the last 0 entries, by a slice that means all of them.
        how["use_cache"] = config.get("sliding_window") != 1
        answer = theirs.generate(given, **how)
        assert row[:length].tolist() == answer[0, len(prompt) :].tolist()

    zoo.to_pretrained(tmp_path / "ours", ours, base=tmp_path / "theirs")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    assert type(again) is cls
    assert again.generation_config.eos_token_id == theirs.generation_config.eos_token_id
    np.testing.assert_allclose(again(torch.tensor(tokens[None])).logits[0].numpy(), expected, rtol=0, atol=1e-6)


LM = {"vocab_size": 31, "embed_size": 16, "num_layers": 2, "num_heads": 4, "mlp_size": 24, "max_length": 64}
GEMMA = {**LM, "num_kv_heads": 2, "head_size": 6}
OURS = {
    "GPT2LMHeadModel": (zoo.TransformerLM, zoo.TransformerLMConfig.gpt2(**LM)),
    "LlamaForCausalLM": (zoo.TransformerLM, zoo.TransformerLMConfig.llama(**LM, num_kv_heads=2, stop_ids=[3, 4])),
    "MistralForCausalLM": (zoo.TransformerLM, zoo.TransformerLMConfig.llama(**LM, window=3)),
    "Qwen3ForCausalLM": (zoo.TransformerLM, zoo.TransformerLMConfig.llama(**LM, qk_norm=True, dropout_p=0.1)),
    "GemmaForCausalLM": (zoo.Gemma, zoo.GemmaConfig.gemma1(**GEMMA)),
    "Gemma2ForCausalLM": (zoo.Gemma, zoo.GemmaConfig.gemma2(**GEMMA | {"max_length": 8192})),
    "Gemma3ForCausalLM": (zoo.Gemma, zoo.GemmaConfig.gemma3(**GEMMA)),
}


@pytest.mark.parametrize("name", OURS)
def test_a_model_of_ones_own_is_loaded_there(name, fill, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    cls, config = OURS[name]
    model = eqx.nn.inference_mode(fill(lambda key: cls(config, key=key)))
    zoo.to_pretrained(tmp_path, model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert type(theirs).__name__ == name
    tokens = np.random.default_rng(0).integers(0, 31, LENGTH)
    with torch.inference_mode():
        expected = theirs(torch.tensor(tokens[None])).logits[0].numpy()
    close = 2e-5 * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(eqx.filter_jit(model)(jnp.asarray(tokens)), expected, rtol=0, atol=close)
