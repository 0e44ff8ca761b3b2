"""A decoder says with which ids its texts begin and end, and which it never writes; all that generates follows."""

import dataclasses

import jax
import numpy as np
import pytest
from cases import VOCAB
from decoders import Script

from zoo import (
    Forbid,
    Greedy,
    Temperature,
    TransformerLM,
    TransformerLMConfig,
    beam_search,
    generate,
    load,
    rebuild,
    save,
    stream,
)

IDS = {"start_ids": (3, 1), "stop_ids": (5, 8), "forbidden_ids": (7,)}


def say(*ids, **given):
    """Says these ids, each with the next one as the second best."""
    rows = np.zeros((len(ids), VOCAB), np.float32)
    for row, (token, second) in enumerate(zip(ids, (*ids[1:], ids[0]), strict=True)):
        rows[row, second], rows[row, token] = 5.0, 10.0
    return Script(rows=jax.numpy.asarray(rows), **given)


CALLS = {
    "generate": lambda *args, **how: generate(*args, max_new_tokens=4, **how).tokens.tolist(),
    "stream": lambda *args, **how: list(stream(*args, max_new_tokens=4, **how)),
    "beam_search": lambda *args, **how: beam_search(*args, num_beams=1, max_new_tokens=4, **how).tokens[0].tolist(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_they_are_what_is_done_unless_told_otherwise(call):
    decoder = say(0, 2, 7, 5, 6, 4, **IDS)  # after the two start ids it says 7, which is forbidden, or 5
    expected = [token for token in call(decoder) if token >= 0]
    assert expected == [5]
    assert call(decoder, forbidden_ids=(), stop_ids=()) == [7, 5, 6, 4]
    assert call(decoder, [1], forbidden_ids=[2], stop_ids=[6]) == [7, 7, 5, 6]
    assert call(say(0, 2, 7, 5, 6, 4), [1, 1]) == [7, 5, 6, 4]
    with pytest.raises(ValueError, match="prompts must be given, because the decoder has no start_ids"):
        call(say(1))
    with pytest.raises(ValueError, match=r"forbidden_ids holds 11, which is outside the vocabulary \(0 to 10\)"):
        call(decoder, forbidden_ids=[VOCAB])


def test_no_beam_holds_what_is_forbidden():
    decoder = say(0, 2, 7, 5, 6, 4)
    beams = beam_search(decoder, [1], num_beams=4, max_new_tokens=5, forbidden_ids=[7, 6])
    assert not np.isin(beams.tokens, [7, 6]).any()


def test_forbidden_ids_are_never_drawn():
    flat = Script(rows=jax.numpy.zeros((1, VOCAB)))
    out = generate(
        flat, [[1]] * 8, max_new_tokens=40, sampler=Temperature(1.0), forbidden_ids=[0, 4], key=jax.random.key(0)
    )
    assert set(out.tokens.ravel().tolist()) == set(range(VOCAB)) - {0, 4}
    np.testing.assert_allclose(out.log_probs, -np.log(VOCAB), rtol=1e-5)  # what the model gave, whatever is forbidden
    one = generate(flat, [1], max_new_tokens=3, sampler=Forbid([0, 1]))
    assert one.tokens.tolist() == [2, 2, 2]
    assert generate(flat, [1], max_new_tokens=3, sampler=Greedy()).tokens.tolist() == [0, 0, 0]


def test_a_model_keeps_them(fill, tmp_path, as_users):
    sizes = {"embed_size": 12, "num_layers": 2, "num_heads": 4, "mlp_size": 20, "max_length": 10}
    config = TransformerLMConfig(vocab_size=VOCAB, **sizes, **IDS)
    lm = fill(lambda key: TransformerLM(config, key=key))
    save(tmp_path / "lm", lm)
    for model in (lm, load(tmp_path / "lm"), rebuild(lm, dropout_p=0.1)):
        decoder = model.decoder()
        assert {name: getattr(decoder, name) for name in IDS} == IDS
    assert rebuild(lm, stop_ids=[1]).decoder().stop_ids == (1,)
    for name in IDS:
        for wrong in ([VOCAB], [-1], [True], [1.0]):
            with pytest.raises(ValueError, match=rf"{name} must be ids in 0\.\.10"):
                dataclasses.replace(config, **{name: wrong})
