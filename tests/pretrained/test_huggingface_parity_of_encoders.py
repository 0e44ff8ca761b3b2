"""Encoders and translators live against transformers, if it is installed: `pytest -m parity -n 0 tests/pretrained`.

As `test_huggingface_parity.py`: what it writes we read, and what we write it reads, with the same answers.
"""

import random

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_huggingface_encoders import close

import zoo

pytestmark = pytest.mark.parity
LENGTHS, SIZE, NEW_TOKENS = (24, 1, 9), 24, 20
FIRST = 4  # lower ids are special ones


def sizes(rng):
    num_heads = rng.choice([1, 2, 4, 6])
    return {
        "vocab_size": rng.choice([31, 64]),
        "hidden_size": num_heads * rng.choice([4, 8, 10]),
        "num_hidden_layers": rng.choice([1, 2, 5]),
        "num_attention_heads": num_heads,
        "intermediate_size": rng.choice([7, 24, 40]),
        "max_position_embeddings": rng.choice([26, 64]),
        "num_labels": rng.choice([1, 2, 5]),
    }


def encoder(rng, name):
    head = rng.choice(["Model", "ForMaskedLM", "ForSequenceClassification"])
    epsilon = {"layer_norm_eps": rng.choice([1e-12, 1e-5, 1e-3]), "type_vocab_size": rng.choice([1, 2])}
    return name + head, sizes(rng) | epsilon


def bert(rng):
    name, config = encoder(rng, "Bert")
    return name, config | {"hidden_act": rng.choice(["gelu", "gelu_new", "relu", "silu"])}


def roberta(rng):
    return encoder(rng, "Roberta")


def xlm_roberta(rng):
    return encoder(rng, "XLMRoberta")


def distilbert(rng):
    name, config = encoder(rng, "DistilBert")
    names = {
        "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
    }  # fmt: skip
    return name, {names.get(key, key): value for key, value in config.items()} | {
        "activation": rng.choice(["gelu", "relu"])
    }


def modernbert(rng):
    name, config = encoder(rng, "ModernBert")
    del config["type_vocab_size"]
    bases = {"full_attention": rng.choice([100.0, 160_000.0]), "sliding_attention": rng.choice([50.0, 10_000.0])}
    return name, config | {
        "num_hidden_layers": rng.choice([2, 3, 5]), "norm_eps": config.pop("layer_norm_eps"),
        "local_attention": rng.choice([2, 6, 128]), "global_attn_every_n_layers": rng.choice([1, 2, 3]),
        "classifier_pooling": rng.choice(["cls", "mean"]), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
        "cls_token_id": 0, "sep_token_id": 2,
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()},
    }  # fmt: skip


def translator(rng):
    config = sizes(rng)
    return {
        "vocab_size": config["vocab_size"], "d_model": config["hidden_size"],
        "encoder_layers": config["num_hidden_layers"], "decoder_layers": rng.choice([1, 2, 3]),
        "encoder_attention_heads": config["num_attention_heads"],
        "decoder_attention_heads": config["num_attention_heads"],
        "encoder_ffn_dim": config["intermediate_size"], "decoder_ffn_dim": config["intermediate_size"],
        "max_position_embeddings": 64, "scale_embedding": rng.random() < 0.5, "eos_token_id": 2,
    }  # fmt: skip


def bart(rng):
    start = {"pad_token_id": 1, "decoder_start_token_id": rng.choice([0, 2])}
    activation = {"activation_function": rng.choice(["gelu", "relu", "gelu_new"])}
    return "BartForConditionalGeneration", translator(rng) | start | activation


def marian(rng):
    config = translator(rng)
    last = config["vocab_size"] - 1
    return "MarianMTModel", config | {
        "activation_function": rng.choice(["swish", "relu"]), "pad_token_id": last, "decoder_start_token_id": last,
    }  # fmt: skip


def t5(rng):
    config = sizes(rng)
    buckets = rng.choice([8, 32])  # a decoder has half of them for distances one by one, and the most lies beyond
    return "T5ForConditionalGeneration", {
        "vocab_size": config["vocab_size"], "d_model": config["hidden_size"], "d_kv": rng.choice([4, 5, 16]),
        "d_ff": config["intermediate_size"], "num_layers": config["num_hidden_layers"],
        "num_decoder_layers": rng.choice([1, 2, 3]), "num_heads": config["num_attention_heads"],
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": rng.choice([12, 20, 128] if buckets == 8 else [20, 128]),
        "feed_forward_proj": rng.choice(["relu", "gated-gelu", "gated-silu"]), "decoder_start_token_id": 0,
        "tie_word_embeddings": rng.random() < 0.5, "layer_norm_epsilon": rng.choice([1e-6, 1e-3]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    torch.set_grad_enabled(False)
    return torch


def perturbed(torch, name, config, seed):
    """A model of transformers without a weight that is zero or one."""
    cls = getattr(pytest.importorskip("transformers"), name)
    torch.manual_seed(seed)
    model = cls(cls.config_class(**config, attn_implementation="eager")).eval()
    if name.startswith("T5") and not config["tie_word_embeddings"]:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            # T5 does not divide its scores: the weights of its queries are smaller by as much.
            scale = config["d_kv"] ** -0.5 if path.endswith(".q.weight") else 1.0
            parameter.add_(0.3 * scale * torch.randn_like(parameter))
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.add_(torch.randn_like(model.final_logits_bias))
    return model


def texts(seed, vocab_size):
    rng = np.random.default_rng(seed)
    real = np.arange(SIZE) < np.array(LENGTHS)[:, None]
    return rng.integers(FIRST, vocab_size - 1, real.shape), real


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("draw", [bert, roberta, xlm_roberta, distilbert, modernbert], ids=lambda f: f.__name__)
def test_an_encoder_of_a_random_config(torch, draw, seed, tmp_path):
    name, config = draw(random.Random(seed))
    theirs = perturbed(torch, name, config, seed)
    theirs.save_pretrained(tmp_path / "theirs")
    tokens, real = texts(seed, config["vocab_size"])
    given = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(real).long()}
    ours = zoo.from_pretrained(tmp_path / "theirs")
    types = None
    if (getattr(ours.config, "num_types", None) or 1) > 1:
        types = np.random.default_rng(seed).integers(0, 2, tokens.shape)
        given["token_type_ids"] = torch.tensor(types)

    def answers(model):
        out = model(**given, output_hidden_states=True)
        found = {"last": out.hidden_states[-1].numpy()[real]}
        if "logits" in out:
            found["logits"] = out.logits.numpy()[real] if out.logits.ndim == 3 else out.logits.numpy()
        elif out.get("pooler_output") is not None:
            found["pooled"] = out.pooler_output.numpy()
        return found

    @eqx.filter_jit
    def answer(model):
        each = lambda f: jax.vmap(lambda t, n, types: f(t, n, types=types))(tokens, np.array(LENGTHS), types)  # noqa: E731
        encoded = each(model.encode)
        return (
            encoded,
            None if model.config.head == "none" else each(model),
            jax.vmap(model.pool)(encoded, np.array(LENGTHS)),
        )

    expected = answers(theirs)
    encoded, logits, pooled = jax.device_get(answer(ours))
    close(encoded[real], expected["last"])
    if "logits" in expected:
        close(logits[real] if logits.ndim == 3 else logits, expected["logits"])
    if "pooled" in expected:
        close(pooled, expected["pooled"])

    zoo.to_pretrained(tmp_path / "ours", ours, base=tmp_path / "theirs")
    again, info = type(theirs).from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values())
    for key, value in answers(again.eval()).items():
        np.testing.assert_allclose(value, expected[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("draw", [bart, marian, t5], ids=lambda f: f.__name__)
def test_a_translator_of_a_random_config(torch, draw, seed, tmp_path):
    name, config = draw(random.Random(seed))
    theirs = perturbed(torch, name, config, seed)
    theirs.save_pretrained(tmp_path / "theirs")
    tokens, real = texts(seed, config["vocab_size"])
    start = np.full((len(LENGTHS), 1), config["decoder_start_token_id"])
    target = np.concatenate([start, tokens], axis=1)
    given = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(real).long()}
    expected = theirs(**given, decoder_input_ids=torch.tensor(target)).logits.numpy()

    ours = zoo.from_pretrained(tmp_path / "theirs")
    each = jax.vmap(lambda source, length, target: ours(source, target, source_length=length))
    close(jax.jit(each)(tokens, np.array(LENGTHS), target), expected)
    decoder, in_axes = ours.decoders(tokens, np.array(LENGTHS))
    out = zoo.generate(decoder, [decoder.start_ids] * 3, max_new_tokens=NEW_TOKENS, in_axes=in_axes)
    written = theirs.generate(
        **given, do_sample=False, max_new_tokens=NEW_TOKENS, forced_eos_token_id=None, use_cache=False
    )
    for row, length, answer in zip(out.tokens, out.length, written[:, 1:].tolist(), strict=True):
        assert row[:length].tolist() == answer[:length]
        assert length == NEW_TOKENS or row[length - 1] in decoder.stop_ids

    zoo.to_pretrained(tmp_path / "ours", ours, base=tmp_path / "theirs")
    again, info = type(theirs).from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values())
    logits = again.eval()(**given, decoder_input_ids=torch.tensor(target)).logits.numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-6 * max(1.0, np.abs(expected).max()))
    assert again.generation_config.decoder_start_token_id == config["decoder_start_token_id"]


def test_a_model_that_was_made_here_goes_out(torch, tmp_path):
    """One of each kind, with random weights: transformers computes what we do."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 31, "embed_size": 16, "num_layers": 2, "num_heads": 2, "mlp_size": 24}
    tokens = jnp.arange(3, 12)
    for name, model, cls in (
        ("bert", zoo.TextEncoder(zoo.TextEncoderConfig.bert(**sizes), key=jax.random.key(0)), "AutoModelForMaskedLM"),
        ("t5", zoo.T5(zoo.T5Config.t5(**sizes), key=jax.random.key(0)), "AutoModelForSeq2SeqLM"),
        (
            "bart",
            zoo.EncoderDecoder(zoo.EncoderDecoderConfig.bart(**sizes), key=jax.random.key(0)),
            "AutoModelForSeq2SeqLM",
        ),
    ):
        zoo.to_pretrained(tmp_path / name, model)
        theirs = getattr(transformers, cls).from_pretrained(tmp_path / name).eval()
        ours = eqx.nn.inference_mode(model)
        source = torch.tensor(np.asarray(tokens))[None]
        if name == "bert":
            close(ours(tokens), theirs(source).logits[0].numpy())
        else:
            close(ours(tokens, tokens), theirs(source, decoder_input_ids=source).logits[0].numpy())
