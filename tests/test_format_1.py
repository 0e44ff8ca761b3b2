"""Files of format 1, which the first version wrote: they load, and answer what they answered then."""

from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import zoo

FILES = sorted((Path(__file__).parent / "golden" / "format_1").glob("*.safetensors"))
CONFIGS = {  # fields that are not at their default, or that were called otherwise
    "transformer_lm": {"position_init": "normal", "remat": True, "tie_embeddings": True, "dropout_p": 0.1},
    "transformer_lm_llama": {"positions": "rotary", "rotary_base": 500.0, "num_kv_heads": 2, "use_head_bias": False},
    "char_rnn": {"cell": "lstm", "dropout_p": 0.2, "num_layers": 2},
    "encoder_decoder": {"num_decoder_layers": 2, "source_vocab_size": 13, "pre_norm": True, "head_dropout_p": 0.2},
    "text_convnet": {"branches": (((3, 2), (2, 1)), ((2, 1),)), "ngram_orders": (2,), "unknown_id": 1},
    "transformer_classifier": {"pooling": "mean_max", "ngram_orders": (1, 2), "remat": False},
}


def test_all_are_here():
    assert [file.stem for file in FILES] == sorted(CONFIGS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_of_format_1_answers_as_then(file, same_bits, tmp_path):
    model, extra = zoo.load(file), zoo.read_extra(file)
    for name, value in CONFIGS[file.stem].items():
        assert getattr(model.config, name) == value, name
    answer = eqx.filter_jit(eqx.nn.inference_mode(model))(*map(jnp.asarray, extra["inputs"]))
    logits = answer[0] if isinstance(answer, tuple) else answer
    np.testing.assert_allclose(logits, extra["logits"], atol=1e-5)
    zoo.save(tmp_path / "now", model, extra=extra)
    assert same_bits(zoo.load(tmp_path / "now"), model)


def test_changes_apply_to_old_files_too():
    assert zoo.load(FILES[-2], dropout_p=0.25).config.dropout_p == 0.25
