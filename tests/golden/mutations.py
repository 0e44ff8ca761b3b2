"""Makes each known mistake in a copy of the repository, one at a time, and sees whether a test fails.

`python tests/golden/mutations.py [NAME ...]`, by hand: all of them take a quarter of an hour. A row of `MUTATIONS` is
a mistake that who writes these models could make, or has made: a text of the code, what stands there instead, and a
test that has to fail. It prints `caught` with what the test said, or `MISSED`; and `NOT FOUND` where the text is no
longer in the code, so that the row has to be written anew.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FAMILIES = "zoo/pretrained/huggingface/"
TESTS = "tests/pretrained/test_huggingface"


class Mutation(NamedTuple):
    """A mistake.

    Attributes:
        name: what the mistake is.
        test: the test that has to fail, as pytest names it.
        file: where it is made.
        right: a text in the file, which may stand there more than once.
        wrong: what stands there instead.
        exchanged: whether each of the two texts takes the other's place.
    """

    name: str
    test: str
    file: str
    right: str
    wrong: str
    exchanged: bool = False


def whole(folder: str) -> str:
    return f"{TESTS}.py::test_hidden_states_and_logits_of_a_whole_text[{folder}]"


def by_token(folder: str) -> str:
    return f"{TESTS}.py::test_hidden_states_after_every_layer_of_the_decoder[{folder}]"


def greedy(folder: str) -> str:
    return f"{TESTS}.py::test_greedy_tokens_of_a_batch[{folder}]"


def encoder(folder: str) -> str:
    return f"{TESTS}_encoders.py::test_hidden_states_of_every_layer[{folder}]"


def head(folder: str) -> str:
    return f"{TESTS}_encoders.py::test_logits_and_pooled_vectors[{folder}]"


def translator(folder: str) -> str:
    return f"{TESTS}_translators.py::test_hidden_states_of_every_layer_and_logits[{folder}]"


ROTARY = "tests/nn/test_embedding.py::test_far_positions_are_rotated_as_models_were_trained"
GEMMA_NORM = "tests/models/test_gemma.py::test_a_norm_of_bfloat16_is_rounded_once"

MUTATIONS = [
    # GPT-2
    Mutation("gelu for gelu_new", whole("gpt2"), FAMILIES + "gpt2.py",
             '"gelu_new": "gelu_tanh"', '"gelu_new": "gelu"'),
    Mutation("gelu_tanh for gelu", whole("gpt2-gelu-untied"), FAMILIES + "gpt2.py",
             '"gelu": "gelu"', '"gelu": "gelu_tanh"'),
    Mutation("GPT-2 with an epsilon of 1e-6", whole("gpt2"), FAMILIES + "gpt2.py",
             'settings.number("layer_norm_epsilon", 1e-5)', "1e-6"),
    Mutation("Conv1D not transposed", whole("gpt2"), FAMILIES + "gpt2.py",
             'Place("transformer.h.{}.attn.c_proj", TRANSPOSED)', '"transformer.h.{}.attn.c_proj"'),
    Mutation("GPT-2's keys and values exchanged", whole("gpt2"), FAMILIES + "gpt2.py",
             "part(1, 3)", "part(2, 3)", True),
    Mutation("names without a prefix not read", whole("gpt2-bin"), FAMILIES + "read.py",
             "bare = _is_bare(family, tensors)\n    pieces", "bare = False\n    pieces"),
    Mutation("constants of old files not ignored", whole("gpt2-bin"), FAMILIES + "gpt2.py", "(masked_)?bias", "mask"),
    Mutation("tied as config.json alone says", whole("gpt2-bin"), FAMILIES + "transformer_lm.py",
             'settings.flag("tie_word_embeddings", True)', 'settings.flag("tie_word_embeddings", False)'),
    # Llama, Mistral, Qwen
    Mutation("always tied", whole("llama"), FAMILIES + "transformer_lm.py",
             'return "lm_head.weight" not in names and settings.flag("tie_word_embeddings", True)', "return True"),
    Mutation("Llama with an epsilon of 1e-6", whole("llama"), FAMILIES + "llama.py",
             'settings.number("rms_norm_eps", 1e-6)', "1e-6"),
    Mutation("no rotary scaling", whole("llama-linear"), "zoo/models/transformer_lm.py",
             "factor=config.rotary_factor", "factor=1.0"),
    Mutation("no rotary bands", whole("llama-3"), "zoo/models/transformer_lm.py",
             "bands=config.rotary_bands", "bands=None"),
    Mutation("rotary scaling of version 4 not read", whole("llama-3"), FAMILIES + "rope.py",
             'settings.part("rope_parameters") or settings.part("rope_scaling")', 'settings.part("rope_parameters")'),
    Mutation("rotary base of version 4 not read", whole("llama-3"), FAMILIES + "rope.py",
             'base = settings.number("rope_theta", base)', "pass"),
    Mutation("rotary base of version 5 not read", whole("llama-linear"), FAMILIES + "rope.py",
             'base = scaling.number("rope_theta", base)', "pass"),
    Mutation("base ** -x", ROTARY, "zoo/nn/embedding.py",
             "np.float32(1) / (self.base ** exponents.astype(np.float64)).astype(np.float32)",
             "(self.base ** -exponents.astype(np.float64)).astype(np.float32)"),
    Mutation("only the first end", greedy("llama-3"), FAMILIES + "settings.py",
             "return tuple(ids)", "return tuple(ids[:1])"),
    Mutation("forbidden ids not read", greedy("llama-linear"), FAMILIES + "read.py",
             'tuple(token for (token,) in forbidden) + ids("suppress_tokens")', 'ids("suppress_tokens")'),
    Mutation("suppressed ids not read", greedy("llama-linear"), FAMILIES + "read.py",
             'tuple(token for (token,) in forbidden) + ids("suppress_tokens")',
             "tuple(token for (token,) in forbidden)"),
    Mutation("generation_config.json not read", greedy("llama-linear"), FAMILIES + "read.py",
             "if other.is_file() else settings", "if False else settings"),
    Mutation("only the first shard", whole("llama-biases-in-shards"), FAMILIES + "tensors.py",
             "sorted(map(str, set(weight_map.values())))", "sorted(map(str, set(weight_map.values())))[:1]"),
    Mutation("window one too wide", whole("mistral"), "zoo/nn/masks.py",
             "slots > positions - window", "slots >= positions - window"),
    Mutation("no window for a whole text", whole("mistral"), "zoo/models/transformer_lm.py",
             "mask = None if window is None else", "mask = None if True else"),
    Mutation("no window for a single token", by_token("mistral"), "zoo/models/transformer_lm.py",
             "state.place(tokens.shape[0], length, self.window)", "state.place(tokens.shape[0], length)"),
    Mutation("no biases of q, k, v", whole("qwen2"), FAMILIES + "qwen2.py",
             '"attention_bias": "qkv"', '"attention_bias": "none"'),
    Mutation("norm of queries after the rotation", whole("qwen3"), "zoo/nn/attention.py",
             "queries = _normalised(self.query_norm, _split_heads(self.query(x), self.num_heads))\n"
             "        return queries if rotation is None else rotation(queries)",
             "queries = _split_heads(self.query(x), self.num_heads)\n"
             "        return _normalised(self.query_norm, queries if rotation is None else rotation(queries))"),
    # Gemma
    Mutation("no cap of scores", whole("gemma-2"), "zoo/models/gemma.py",
             "score_cap=config.score_cap", "score_cap=None"),
    Mutation("no cap of logits", whole("gemma-2"), "zoo/models/gemma.py",
             "return logits if cap is None else softcap(logits, cap)", "return logits"),
    Mutation("scores scaled by the head's size", whole("gemma-2"), "zoo/models/gemma.py",
             "config.query_size or config.head_size", "config.head_size"),
    Mutation("no norms after", whole("gemma-2"), "zoo/models/gemma.py",
             "branch if norm is None else jax.vmap(norm)(branch)", "branch"),
    Mutation("norms named as in Gemma 1", whole("gemma-2"), FAMILIES + "gemma2.py",
             "post_attention_layernorm", "pre_feedforward_layernorm", True),
    Mutation("local base that of global layers", whole("gemma-3"), "zoo/models/gemma.py",
             "config.local_rotary_base)", "config.rotary_base)"),
    Mutation("local layers stretched, too", whole("gemma-3"), "zoo/models/gemma.py",
             "config.local_rotary_base)", "config.local_rotary_base, factor=config.rotary_factor)"),
    Mutation("local and global layers exchanged", whole("gemma-3"), "zoo/models/gemma_config.py",
             "% self.global_every != 0", "% self.global_every == 0"),
    Mutation("norms times their weight alone", whole("gemma"), "zoo/models/gemma.py",
             "(1.0 + self.weight.astype(jnp.float32))", "self.weight.astype(jnp.float32)"),
    Mutation("one added in bfloat16", GEMMA_NORM, "zoo/models/gemma.py",
             "(1.0 + self.weight.astype(jnp.float32))", "(1.0 + self.weight).astype(jnp.float32)"),
    Mutation("embeddings of Gemma unscaled", whole("gemma"), "zoo/models/gemma.py", "scale=root", "scale=1.0"),
    # BERT, RoBERTa, DistilBERT
    Mutation("gelu for BERT's gelu_new", head("bert-masked-lm"), FAMILIES + "text_encoder.py",
             '"gelu_new": "gelu_tanh"', '"gelu_new": "gelu"'),
    Mutation("gelu_tanh for BERT's gelu", encoder("distilbert"), FAMILIES + "text_encoder.py",
             '"gelu": "gelu"', '"gelu": "gelu_tanh"'),
    Mutation("BERT with an epsilon of 1e-5", encoder("bert-classifier"), FAMILIES + "text_encoder.py",
             'settings.number("layer_norm_eps", 1e-12)', "1e-5"),
    Mutation("RoBERTa with an epsilon of 1e-12", encoder("roberta-masked-lm"), FAMILIES + "text_encoder.py",
             'settings.number("layer_norm_eps", 1e-12)', "1e-12"),
    Mutation("pooler with relu for tanh", head("bert-classifier"), FAMILIES + "bert.py",
             'activation="tanh"', 'activation="relu"'),
    Mutation("pooler with tanh for relu", head("distilbert-classifier"), FAMILIES + "distilbert.py",
             'activation="relu"', 'activation="tanh"'),
    Mutation("types ignored", encoder("bert-classifier"), "zoo/models/text_encoder.py",
             "jnp.zeros_like(tokens) if types is None else types", "jnp.zeros_like(tokens)"),
    Mutation("padding attended to", encoder("bert-classifier"), "zoo/models/text_encoder.py",
             "self.stack(self.dropout(x, key=embed_key), mask=mask, key=stack_key)",
             "self.stack(self.dropout(x, key=embed_key), key=stack_key)"),
    Mutation("RoBERTa's positions from row 0", encoder("roberta-masked-lm"), FAMILIES + "roberta.py",
             "rows(FIRST_POSITION)", "rows(0, FIRST_POSITION)"),
    Mutation("RoBERTa's positions from row 1", encoder("roberta-masked-lm"), FAMILIES + "roberta.py",
             "rows(FIRST_POSITION)", "rows(1, 1)"),
    Mutation("BERT's norms exchanged", encoder("bert-classifier"), FAMILIES + "bert.py",
             "}attention.output.LayerNorm", "}output.LayerNorm", True),
    Mutation("BERT's queries and keys exchanged", encoder("bert-classifier"), FAMILIES + "bert.py",
             "attention.self.query", "attention.self.key", True),
    # ModernBERT
    Mutation("ModernBERT's gate and up exchanged", encoder("modernbert"), FAMILIES + "modernbert.py",
             "part(0, 2)", "part(1, 2)", True),
    Mutation("window not halved", encoder("modernbert"), "zoo/models/modern_bert.py", "<= config.window // 2",
             "<= config.window"),
    Mutation("local layers global", encoder("modernbert"), "zoo/models/modern_bert.py",
             "% config.global_every == 0", "% config.global_every != 0"),
    Mutation("the mean of padding, too", head("modernbert-classifier"), "zoo/models/abstract_text_encoder.py",
             "encoded.shape[0] if length is None else length", "encoded.shape[0]"),
    # BART, Marian
    Mutation("BART with an epsilon of 1e-6", translator("bart"), "zoo/models/encoder_decoder_config.py",
             "1e-5", "1e-6"),
    Mutation("Marian with an epsilon of 1e-6", translator("marian"), "zoo/models/encoder_decoder_config.py",
             "1e-5", "1e-6"),
    Mutation("logits scaled as the zoo's own", translator("marian"), FAMILIES + "bart.py",
             '"dropout_p": 0.0,', '"dropout_p": 0.0, "logit_scale": 0.2,'),
    Mutation("sines and cosines interleaved", translator("marian"), FAMILIES + "marian.py",
             '"halves"', '"interleaved"'),
    Mutation("Marian's embeddings unscaled", translator("marian"), FAMILIES + "bart.py",
             'embed_size**0.5 if settings.flag("scale_embedding", False) else 1.0', "1.0"),
    Mutation("BART's embeddings scaled", translator("bart"), FAMILIES + "bart.py",
             'embed_size**0.5 if settings.flag("scale_embedding", False) else 1.0', "embed_size**0.5"),
    Mutation("relu for swish", translator("marian"), FAMILIES + "bart.py", '"swish": "silu"', '"swish": "relu"'),
    Mutation("no bias of logits", translator("marian"), "zoo/models/target_decoder.py",
             "if model.logit_bias is None:", "if True:"),
    Mutation("BART's positions from row 0", translator("bart"), FAMILIES + "bart.py", "rows(2)", "rows(0, 2)"),
    Mutation("tables of positions exchanged", translator("bart"), FAMILIES + "bart.py",
             "model.encoder.embed_positions", "model.decoder.embed_positions", True),
    Mutation("norms of embeddings exchanged", translator("bart"), FAMILIES + "bart.py",
             "model.encoder.layernorm_embedding", "model.decoder.layernorm_embedding", True),
    Mutation("norms of the two attentions exchanged", translator("bart"), FAMILIES + "bart.py",
             '{theirs}{attentions[a]}_layer_norm" for a in attentions',
             '{theirs}{attentions[b]}_layer_norm" for a, b in zip(attentions, '
             'list(attentions)[:: -1 if side == "decoder" else 1])'),
    # T5
    Mutation("T5 with an epsilon of 1e-5", translator("t5"), FAMILIES + "t5.py",
             'settings.number("layer_norm_epsilon", 1e-6)', "1e-5"),
    Mutation("hidden vectors scaled though untied", translator("flan-t5"), FAMILIES + "t5.py",
             "scale_hidden=scaled", "scale_hidden=True"),
    Mutation("hidden vectors not scaled though tied", translator("t5"), FAMILIES + "t5.py",
             "scale_hidden=scaled", "scale_hidden=False"),
    Mutation("scores of T5 scaled", translator("t5"), "zoo/models/t5.py",
             '"attention_scale": 1.0', '"attention_scale": None'),
    Mutation("T5's gate and up exchanged", translator("flan-t5"), FAMILIES + "t5.py",
             "DenseReluDense.wi_0", "DenseReluDense.{'wi_1' if gated else 'wi'}", True),
    Mutation("exact gelu for T5's", translator("flan-t5"), FAMILIES + "t5.py",
             '"gated-gelu": ("gelu_tanh", True)', '"gated-gelu": ("gelu", True)'),
    Mutation("the encoder's distances one-sided", translator("t5"), "zoo/models/t5.py",
             "(True, keys[1])", "(False, keys[1])"),
    Mutation("the decoder's distances two-sided", translator("t5"), "zoo/models/t5.py",
             "(False, keys[2])", "(True, keys[2])"),
    Mutation("biases of distances exchanged", translator("t5"), FAMILIES + "t5.py",
             '{name}.block.0.layer.0.SelfAttention.relative_attention_bias',
             "{'decoder' if name == 'encoder' else 'encoder'}.block.0.layer.0.SelfAttention.relative_attention_bias"),
    Mutation("buckets from distance 1 on", translator("t5"), "zoo/nn/relative_bias.py",
             "distances = np.arange(max_distance + 1)", "distances = np.arange(max_distance + 1) + 1"),
    Mutation("largest distance 128", translator("t5"), FAMILIES + "t5.py",
             'settings.size("relative_attention_max_distance", 128)', "128"),
]  # fmt: skip


def outcome(mutation: Mutation, copy: Path) -> str:
    """What became of a mistake."""
    path = copy / mutation.file
    text = path.read_text()
    if mutation.right not in text:
        return "NOT FOUND"
    mutated = text.replace(mutation.right, "\0")
    if mutation.exchanged:
        mutated = mutated.replace(mutation.wrong, mutation.right)
    path.write_text(mutated.replace("\0", mutation.wrong))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "not parity", "--tb=short", mutation.test]
    how = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    ran = subprocess.run(
        command, cwd=copy, env=how | os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True
    )
    path.write_text(text)
    if ran.returncode not in (0, 1):  # it never came to the test
        raise RuntimeError(f"{' '.join(command)}\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    if not ran.returncode:
        return "MISSED"
    said = [line.removeprefix("E").strip() for line in ran.stdout.splitlines() if line.startswith("E ")]
    far = [line for line in said if line.startswith("Max absolute difference")]
    return f"caught ({(far + said)[0][:160]})"


def main(names: list[str]) -> None:
    unknown = set(names) - {mutation.name for mutation in MUTATIONS}
    if unknown:
        raise SystemExit(f"no mutation is called {min(unknown)!r}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "repository")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs"))
        for mutation in MUTATIONS:
            if not names or mutation.name in names:
                print(f"{mutation.name}: {outcome(mutation, copy)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
