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
MANY_TEXTS = 64  # what rounding does to a few of them is chance
NEW_TOKENS, BEAMS, BEAM_TOKENS = 64, 4, 12


@dataclasses.dataclass(frozen=True)
class Folder:
    """A checkpoint: its class in transformers, the config's fields, and how it is written."""

    model: str
    config: dict[str, Any]
    kind: str = "causal"
    seed: int = 0
    scale: float = 0.3
    norm_scale: float = 1.0  # a smaller one shows the epsilon of norms
    generation: dict[str, Any] = dataclasses.field(default_factory=dict)
    write: Callable[[Any, Path], None] = lambda model, path: model.save_pretrained(path)


def in_shards(model: Any, path: Path) -> None:
    model.save_pretrained(path, max_shard_size="8KB")


def as_torch_once_did(model: Any, path: Path) -> None:
    """A `pytorch_model.bin` without the head, whose names lack the prefix, and with the constants of older files.

    Whether the head is tied is not said in `config.json`.
    """
    model.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    del config["tie_word_embeddings"]
    (path / "config.json").write_text(json.dumps(config, indent=2))
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


def with_names_of_tensorflow(model: Any, path: Path) -> None:
    """As the first BERT was converted: the old names of norms, the second head and the pooler of pretraining."""
    whole = transformers.BertForPreTraining(model.config)
    whole.load_state_dict(model.state_dict(), strict=False)
    whole.save_pretrained(path)
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in whole.state_dict().items()
    }
    state["bert.embeddings.position_ids"] = torch.arange(model.config.max_position_embeddings)[None]
    (path / "model.safetensors").unlink()
    torch.save(state, path / "pytorch_model.bin")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}, indent=2))


def as_torch_with_copies(model: Any, path: Path) -> None:
    """A `pytorch_model.bin` that holds the embedding under all its names, and a table that nothing uses."""
    model.save_pretrained(path)
    (path / "model.safetensors").unlink()
    state = model.state_dict()
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    torch.save({**state, unused: torch.randn(8, 4)}, path / "pytorch_model.bin")


def with_keys_of_the_first_modernbert(model: Any, path: Path) -> None:
    """The same config, as transformers 4 wrote it."""
    model.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["global_rope_theta"] = rope["full_attention"]["rope_theta"]
    config["local_rope_theta"] = rope["sliding_attention"]["rope_theta"]
    config["global_attn_every_n_layers"] = config.pop("layer_types").index("full_attention", 1)
    config["torch_dtype"] = config.pop("dtype")
    (path / "config.json").write_text(json.dumps(config, indent=2))


def in_words_of_version_4_untied(model: Any, path: Path) -> None:
    """What transformers 5 calls a tied model whose outputs are not scaled was an untied one in version 4."""
    in_words_of_version_4(model, path)
    config = json.loads((path / "config.json").read_text())
    del config["scale_decoder_outputs"]
    (path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}, indent=2))


def causal(model: Any) -> dict[str, np.ndarray]:
    """Of a decoder-only model: hidden states and logits of one text, tokens of a batch, beams of one prompt."""
    rng = np.random.default_rng(0)
    vocab = model.config.vocab_size
    prompts = [rng.integers(3, vocab, length).tolist() for length in LENGTHS]
    out = {f"prompt_{row}": np.array(prompt) for row, prompt in enumerate(prompts)}
    text = torch.tensor(prompts[:1])
    given = model(text, output_hidden_states=True)
    out["hidden"] = torch.cat(given.hidden_states).numpy()
    out["logits"] = given.logits[0].numpy()
    out |= rounding(model, lambda model, t: model(t, attention_mask=torch.ones_like(t)).logits)
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


def batch_of(lengths: tuple[int, ...], vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random texts, padded on the right with their first token, and the mask of what is real."""
    rng = np.random.default_rng(0)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    tokens = rng.integers(3, vocab, mask.shape)
    return torch.tensor(np.where(mask, tokens, tokens[:, :1])), torch.tensor(mask).long()


def rounding(model: Any, answer: Callable[[Any, torch.Tensor], torch.Tensor]) -> dict[str, np.ndarray]:
    """Many random texts, and how far in bfloat16 an answer to them is from that of the same weights in float32.

    The distance is the mean magnitude of the difference of all numbers.
    """
    low = copy.deepcopy(model).bfloat16()
    texts = np.random.default_rng(1).integers(3, model.config.vocab_size, (MANY_TEXTS, max(LENGTHS)))
    given = torch.tensor(texts)
    distance = (answer(low, given).float() - answer(low.float(), given)).abs().mean()
    return {"many_texts": texts.astype(np.uint8), "bfloat16_distance": distance.numpy()}


def encoder(model: Any) -> dict[str, np.ndarray]:
    """Of a text encoder: hidden states of a batch, and what its head makes of them."""
    tokens, mask = batch_of(LENGTHS, model.config.vocab_size)
    given = {"input_ids": tokens, "attention_mask": mask}
    out = {"tokens": tokens.numpy(), "lengths": np.array(LENGTHS)}
    types = None
    if getattr(model.config, "type_vocab_size", 1) > 1:
        types = torch.arange(tokens.shape[1]) // 3 % 2
        given["token_type_ids"] = types.expand_as(tokens)
        out["types"] = given["token_type_ids"].numpy()
    answer = model(**given, output_hidden_states=True)
    out["hidden"] = torch.stack(answer.hidden_states)[:, 0].numpy()  # of the longest text, which has no padding
    out["last"] = answer.hidden_states[-1][mask > 0].numpy()  # of all texts without their padding
    typed = {} if types is None else {"token_type_ids": types.expand(MANY_TEXTS, -1)}
    out |= rounding(model, lambda model, t: model(t, **typed, output_hidden_states=True).hidden_states[-1])
    for name in ("logits", "pooler_output"):
        if answer.get(name) is not None:
            out[name] = (answer[name][mask > 0] if answer[name].ndim == 3 else answer[name]).numpy()
    return out


def translator(model: Any) -> dict[str, np.ndarray]:
    """Of an encoder-decoder: hidden states and logits of a batch, tokens of a batch, beams of its first row."""
    tokens, mask = batch_of(LENGTHS, model.config.vocab_size)
    start = torch.full((len(LENGTHS), 1), model.config.decoder_start_token_id)
    given = {"input_ids": tokens, "attention_mask": mask, "decoder_input_ids": torch.cat([start, tokens], dim=1)}
    answer = model(**given, output_hidden_states=True)
    out = {"tokens": tokens.numpy(), "lengths": np.array(LENGTHS), "target": given["decoder_input_ids"].numpy()}
    out["encoder_hidden"] = torch.stack(answer.encoder_hidden_states)[:, 0].numpy()  # of the longest text
    out["decoder_hidden"] = torch.stack(answer.decoder_hidden_states)[:, 0].numpy()
    out["logits"] = answer.logits.numpy()
    starts = start[:1].expand(MANY_TEXTS, 1)
    out |= rounding(model, lambda model, t: model(t, decoder_input_ids=torch.cat([starts, t], dim=1)).logits)
    # A cache of T5's fails in this version where the sides differ in depth.
    how = {"do_sample": False, "forced_eos_token_id": None, "use_cache": False}
    written = model.generate(tokens, attention_mask=mask, max_new_tokens=NEW_TOKENS, **how)
    out["greedy"] = written[:, 1:].numpy()
    beams = model.generate(
        tokens[:1], attention_mask=mask[:1], num_beams=BEAMS, num_return_sequences=BEAMS, max_new_tokens=BEAM_TOKENS,
        length_penalty=1.0, early_stopping="never", return_dict_in_generate=True, output_scores=True, **how,
    )  # fmt: skip
    out["beams"] = beams.sequences[:, 1:].numpy()
    out["beam_scores"] = beams.sequences_scores.numpy()
    return out


KINDS: dict[str, Callable[[Any], dict[str, np.ndarray]]] = {
    "causal": causal,
    "encoder": encoder,
    "translator": translator,
}

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
BERT = {
    "vocab_size": 41, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20,
    "max_position_embeddings": 24,
}  # fmt: skip
ROBERTA = {**BERT, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
DISTILBERT = {
    "vocab_size": 41, "dim": 12, "n_layers": 2, "n_heads": 4, "hidden_dim": 20, "max_position_embeddings": 24,
}  # fmt: skip
MODERNBERT = {
    "vocab_size": 41, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 12,
    "max_position_embeddings": 24, "local_attention": 6, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    "cls_token_id": 0, "sep_token_id": 2, "global_attn_every_n_layers": 2,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    },
}  # fmt: skip
BART = {
    "vocab_size": 41, "d_model": 12, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "max_position_embeddings": 66,
    "pad_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MARIAN = {
    **BART, "activation_function": "swish", "scale_embedding": True, "pad_token_id": 40, "eos_token_id": 0,
    "decoder_start_token_id": 40,
}  # fmt: skip
T5 = {
    "vocab_size": 41, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "decoder_start_token_id": 0,
}  # fmt: skip
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
    "bert": Folder("BertModel", BERT, kind="encoder"),
    "bert-masked-lm": Folder("BertForMaskedLM", {**BERT, "hidden_act": "gelu_new"}, kind="encoder"),
    "bert-pretraining": Folder("BertForMaskedLM", BERT, kind="encoder", write=with_names_of_tensorflow),
    "bert-classifier": Folder(
        "BertForSequenceClassification", {**BERT, "id2label": {0: "no", 1: "maybe", 2: "yes"}}, kind="encoder"
    ),
    "roberta": Folder("RobertaModel", ROBERTA, kind="encoder"),
    "roberta-masked-lm": Folder("RobertaForMaskedLM", ROBERTA, kind="encoder"),
    "roberta-classifier": Folder("RobertaForSequenceClassification", {**ROBERTA, "num_labels": 2}, kind="encoder"),
    "xlm-roberta": Folder("XLMRobertaForMaskedLM", ROBERTA, kind="encoder"),
    "distilbert": Folder("DistilBertModel", DISTILBERT, kind="encoder"),
    "distilbert-masked-lm": Folder("DistilBertForMaskedLM", DISTILBERT, kind="encoder"),
    "distilbert-classifier": Folder("DistilBertForSequenceClassification", DISTILBERT, kind="encoder"),
    "modernbert": Folder("ModernBertModel", MODERNBERT, kind="encoder"),
    "modernbert-masked-lm": Folder(
        "ModernBertForMaskedLM", MODERNBERT, kind="encoder", write=with_keys_of_the_first_modernbert
    ),
    "modernbert-classifier": Folder(
        "ModernBertForSequenceClassification", {**MODERNBERT, "classifier_pooling": "mean"}, kind="encoder"
    ),
    "bart": Folder("BartForConditionalGeneration", BART, kind="translator"),
    "bart-scaled": Folder(
        "BartForConditionalGeneration",
        {**BART, "scale_embedding": True},
        kind="translator",
        generation={"forced_bos_token_id": 5},
    ),
    "marian": Folder(
        "MarianMTModel", MARIAN, kind="translator", norm_scale=0.2, generation={"bad_words_ids": [[40]]}
    ),
    "t5": Folder("T5ForConditionalGeneration", T5, kind="translator"),
    "t5-bin": Folder(
        "T5ForConditionalGeneration", {**T5, "num_layers": 2}, kind="translator", write=as_torch_with_copies
    ),
    "flan-t5": Folder(
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        kind="translator",
        seed=1,
        write=in_words_of_version_4_untied,
    ),
}  # fmt: skip


def make(folder: Folder) -> Any:
    """The model in inference mode, every weight of it perturbed."""
    cls = getattr(transformers, folder.model)
    torch.manual_seed(folder.seed)
    model = cls(cls.config_class(**folder.config, attn_implementation="eager")).eval()
    if folder.config.get("tie_word_embeddings") is False and hasattr(model, "lm_head"):
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())  # T5's would be tied all the same
    for parameter in model.parameters():
        if parameter.requires_grad:  # a table of sines and cosines is no weight
            parameter.add_(folder.scale * torch.randn_like(parameter))
    for name, parameter in model.named_parameters():
        parameter.mul_(folder.norm_scale if "norm" in name else 1.0)
    for name, buffer in model.named_buffers():
        if name == "final_logits_bias":
            buffer.add_(torch.randn_like(buffer))
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
