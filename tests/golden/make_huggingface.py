"""Writes `tests/golden/huggingface/KIND/NAME`: tiny checkpoints of transformers, and what it makes of them.

Run once, by hand, with transformers 5.24 and torch 2.13 (CPU): `python tests/golden/make_huggingface.py [NAME ...]`.
A row of `FOLDERS` is one folder. Every weight is perturbed, since a fresh model has biases of zero and norms of one,
which hide what is forgotten. `KINDS` says what is expected of a model; another kind is another function.
"""

import copy
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent / "huggingface"
LENGTHS = (20, 1, 7)  # of the prompts of a batch
NEW_TOKENS, BEAMS, BEAM_TOKENS = 64, 4, 12


@dataclasses.dataclass(frozen=True)
class Folder:
    """A checkpoint: its class in transformers, the config's fields, and how it is written."""

    model: str
    config: dict[str, Any]
    kind: str = "causal"
    seed: int = 0
    scale: float = 0.3
    generation: dict[str, Any] = dataclasses.field(default_factory=dict)
    write: Callable[[Any, Path], None] = lambda model, path: model.save_pretrained(path)


def in_shards(model: Any, path: Path) -> None:
    model.save_pretrained(path, max_shard_size="8KB")


def as_torch_once_did(model: Any, path: Path) -> None:
    """A `pytorch_model.bin` without the head, whose names lack the prefix, and with the constants of older files."""
    model.save_pretrained(path)
    (path / "model.safetensors").unlink()
    state = model.base_model.state_dict()
    for layer in range(model.config.n_layer):
        state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 2, 2, dtype=torch.bool).tril()
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(state, path / "pytorch_model.bin")


def in_words_of_version_4(model: Any, path: Path) -> None:
    """The same config, as transformers 4 wrote it."""
    model.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    rope = config.pop("rope_parameters", {})
    local = rope.get("sliding_attention")
    rope = rope.get("full_attention", rope)
    if local is not None:
        config["rope_local_base_freq"] = local["rope_theta"]
        config["sliding_window_pattern"] = config.pop("_sliding_window_pattern")
    if rope:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    (path / "config.json").write_text(json.dumps(config, indent=2))


def causal(model: Any) -> dict[str, np.ndarray]:
    """Of a decoder-only model: hidden states and logits of one text, tokens of a batch, beams of one prompt."""
    rng = np.random.default_rng(0)
    vocab = model.config.vocab_size
    prompts = [rng.integers(3, vocab, length).tolist() for length in LENGTHS]
    out = {f"prompt_{row}": np.array(prompt) for row, prompt in enumerate(prompts)}
    text = torch.tensor(prompts[:1])
    given = model(text, output_hidden_states=True)
    out["bfloat16"] = copy.deepcopy(model).bfloat16()(text).logits[0].float().numpy()
    out["hidden"] = torch.cat(given.hidden_states).numpy()
    out["logits"] = given.logits[0].numpy()
    for row, prompt in enumerate(prompts):
        tokens = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW_TOKENS)
        out[f"greedy_{row}"] = tokens[0, len(prompt) :].numpy()
    beams = model.generate(
        text, do_sample=False, num_beams=BEAMS, num_return_sequences=BEAMS, max_new_tokens=BEAM_TOKENS,
        length_penalty=1.0, early_stopping="never", return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    out["beams"] = beams.sequences[:, text.shape[1] :].numpy()
    out["beam_scores"] = beams.sequences_scores.numpy()
    return out


KINDS: dict[str, Callable[[Any], dict[str, np.ndarray]]] = {"causal": causal}

GPT2 = {
    "vocab_size": 41, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 96, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
LLAMA = {
    "vocab_size": 41, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "rms_norm_eps": 1e-5, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
GEMMA = {**LLAMA, "head_dim": 6, "rms_norm_eps": 1e-6}
ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
}
GEMMA3 = {**GEMMA, "sliding_window": 5, "query_pre_attn_scalar": 9, "rope_parameters": ROPES}

FOLDERS = {
    "gpt2": Folder("GPT2LMHeadModel", GPT2),
    "gpt2-bin": Folder("GPT2LMHeadModel", {**GPT2, "n_inner": 24}, write=as_torch_once_did),
    "gpt2-gelu-untied": Folder(
        "GPT2LMHeadModel", {**GPT2, "activation_function": "gelu", "tie_word_embeddings": False}
    ),
    "llama": Folder("LlamaForCausalLM", LLAMA),
    "llama-biases-in-shards": Folder(
        "LlamaForCausalLM", {**LLAMA, "attention_bias": True, "mlp_bias": True, "head_dim": 6}, write=in_shards
    ),
    "llama-3": Folder(
        "LlamaForCausalLM",
        {**LLAMA, "rope_parameters": LLAMA3, "tie_word_embeddings": True, "eos_token_id": [2, 5]},
        write=in_words_of_version_4,
    ),
    "llama-linear": Folder(
        "LlamaForCausalLM",
        {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0}},
        generation={"bad_words_ids": [[7]], "suppress_tokens": [9, 11]},
    ),
    "mistral": Folder("MistralForCausalLM", {**LLAMA, "sliding_window": 5}),
    "qwen2": Folder("Qwen2ForCausalLM", LLAMA),
    "qwen2-window": Folder(
        "Qwen2ForCausalLM",
        {**LLAMA, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0},
        write=in_words_of_version_4,
    ),
    "qwen3": Folder("Qwen3ForCausalLM", {**LLAMA, "head_dim": 6, "tie_word_embeddings": True}),
    "gemma": Folder("GemmaForCausalLM", GEMMA),
    "gemma-2": Folder(
        "Gemma2ForCausalLM",
        {
            **GEMMA, "sliding_window": 5, "query_pre_attn_scalar": 9, "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma-3": Folder(
        "Gemma3ForCausalLM",
        {**GEMMA3, "sliding_window_pattern": 2},
    ),
    "gemma-3-version-4": Folder(
        "Gemma3ForCausalLM",
        {**GEMMA3, "sliding_window_pattern": 3},
        write=in_words_of_version_4,
    ),
}  # fmt: skip


def make(folder: Folder) -> Any:
    """The model in inference mode, every weight of it perturbed."""
    cls = getattr(transformers, folder.model)
    torch.manual_seed(folder.seed)
    model = cls(cls.config_class(**folder.config, attn_implementation="eager")).eval()
    for parameter in model.parameters():
        parameter.add_(folder.scale * torch.randn_like(parameter))
    for key, value in folder.generation.items():
        setattr(model.generation_config, key, value)
    return model


def main(names: list[str]) -> None:
    torch.set_grad_enabled(False)
    for name in names or FOLDERS:
        folder = FOLDERS[name]
        path = HERE / folder.kind / name
        shutil.rmtree(path, ignore_errors=True)
        model = make(folder)
        folder.write(model, path)
        np.savez_compressed(path / "expected.npz", **KINDS[folder.kind](model))
        size = sum(file.stat().st_size for file in path.iterdir())
        print(f"{name}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
