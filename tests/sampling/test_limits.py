"""Nothing is silent: full states, logits that are not finite, wrong arguments."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import VOCAB, Script, spell, subject_named

from zoo import (
    AbstractDecoder,
    NonFiniteLogitsError,
    Temperature,
    TransformerLM,
    TransformerLMConfig,
    beam_search,
    decode,
    generate,
    score,
    stream,
)

pytestmark = pytest.mark.usefixtures("strict_promotion")


@eqx.filter_jit
def run(decoder, prompts, length, max_new_tokens, in_axes=None):
    return decode(decoder, prompts, length=length, capacity=12, max_new_tokens=max_new_tokens, in_axes=in_axes)


def test_decode_flags_what_does_not_fit(fill):
    lm = subject_named("TransformerLM-trax", fill)
    out, fits = (
        run(lm.decoder, np.array([[1, 2, 3], [4, 5, 6]]), np.array([3, 3]), np.array(new, np.int32))
        for new in (20, 9)
    )
    assert not np.any(out.finite)
    assert (np.asarray(out.length) <= 10).all()
    assert np.all(fits.finite)
    assert fits.length.tolist() == [9, 9]
    np.testing.assert_array_equal(np.asarray(out.tokens)[:, :9], np.asarray(fits.tokens)[:, :9])
    for size, capacity in ((9, 8), (0, 8)):
        with pytest.raises(ValueError, match=f"{size} tokens .* capacity"):
            decode(lm.decoder, np.zeros(size, int), capacity=capacity, max_new_tokens=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_name_row_and_token(bad):
    """Row 3 of the script is bad: a prompt of 1 token meets it at new token 2, one of 3 tokens at token 0."""
    decoder = eqx.tree_at(lambda d: d.rows, spell(1, 2, 3, 4, 5), spell(1, 2, 3, 4, 5).rows.at[3, 7].set(bad))
    for prompts, row, token in (([[1, 2, 3, 4], [5]], 1, 2), ([1, 2, 3], 0, 0), ([[1], [2, 2, 2]], 0, 2)):
        with pytest.raises(NonFiniteLogitsError, match=f"new token {token} of row {row}"):
            generate(decoder, prompts, max_new_tokens=4)
    given = []
    with pytest.raises(NonFiniteLogitsError, match="new token 2"):
        given.extend(stream(decoder, [1], max_new_tokens=4, sampler=Temperature(1.0), key=jax.random.key(0)))
    first = generate(decoder, [1], max_new_tokens=2)  # it has not come to it yet
    with pytest.raises(NonFiniteLogitsError, match="new token 2 of row 0"):
        generate(decoder, resume=first, max_new_tokens=1)
    flagged = run(decoder, np.array([[1, 1], [1, 2]]), np.array([1, 2]), np.array(3, np.int32))
    assert flagged.finite.tolist() == [False, False]
    assert flagged.length.tolist() == [2, 1]


def test_a_row_that_is_not_finite_stops_no_other():
    rows = jnp.stack([spell(1, 2, 3, 4, 5).rows] * 2).at[0, 3, 7].set(jnp.nan)
    decoder = Script(rows=rows)
    axes = eqx.tree_at(lambda d: d.rows, jax.tree.map(lambda _: None, decoder), 0, is_leaf=lambda x: x is None)
    out = run(decoder, np.array([[1], [1]]), np.array([1, 1]), np.array(6, np.int32), axes)
    assert out.finite.tolist() == [False, True]
    assert out.length.tolist() == [2, 6]
    assert out.tokens[1, :6].tolist() == [2, 3, 4, 5, 1, 2]


def test_nothing_but_minus_infinity_is_no_distribution():
    decoder = Script(rows=jnp.full((1, VOCAB), -jnp.inf))
    with pytest.raises(NonFiniteLogitsError):
        generate(decoder, [1], max_new_tokens=1)


class Untouchable(AbstractDecoder):
    """Any use of it is a failure: what is wrong has to be found before any compute."""

    vocab_size: int = VOCAB
    max_length: int | None = 20

    def init_state(self, capacity):
        raise AssertionError("touched")

    def prefill(self, tokens, state, *, length=None):
        raise AssertionError("touched")

    def step(self, token, state):
        raise AssertionError("touched")


OK = {"prompts": [1, 2], "max_new_tokens": 3}
WRONG = [
    ({"prompts": [1, VOCAB]}, r"token 11 at index 1 .*\(0 to 10\)"),
    ({"prompts": [-1]}, "token -1 at index 0"),
    ({"prompts": [[1], [2, 3, -5]]}, "token -5 at index 2 of prompt 1"),
    ({"prompts": [2**40]}, "token 1099511627776"),
    ({"prompts": [2**70]}, "prompt"),
    ({"prompts": [1.0, 2.0]}, "whole numbers, got float64"),
    ({"prompts": np.array([1.0])}, "whole numbers, got float64"),
    ({"prompts": jnp.array([1.0])}, "whole numbers, got float32"),
    ({"prompts": [True, False]}, "whole numbers, got bool"),
    ({"prompts": np.array([[True]])}, "whole numbers, got bool"),
    ({"prompts": [None]}, "prompt"),
    ({"prompts": "hello"}, "'hello'"),
    ({"prompts": ["hello"]}, "prompt"),
    ({"prompts": b"hello"}, "prompt"),
    ({"prompts": 5}, "prompts"),
    ({"prompts": np.array(5)}, "prompts"),
    ({"prompts": {1: 2}}, "prompts"),
    ({"prompts": []}, "empty"),
    ({"prompts": [[]]}, "empty"),
    ({"prompts": [[1], []]}, "prompt 1 is empty"),
    ({"prompts": np.zeros((0, 3), int)}, "empty"),
    ({"prompts": np.zeros((2, 0), int)}, "empty"),
    ({"prompts": [[[1, 2]]]}, r"shape \(1, 2\)"),
    ({"prompts": np.zeros((2, 2, 2), int)}, r"shape \(2, 2\)"),
    ({"prompts": [[1, 2], 3]}, "prompt 1"),
    ({"prompts": [1] * 18}, r"18 tokens .* max_new_tokens \(3\) .* max_length \(20\): there is room for 2"),
    ({"prompts": [1] * 21, "max_new_tokens": 0}, r"21 tokens .* max_length \(20\)"),
    ({"max_new_tokens": -1}, "max_new_tokens .* -1"),
    ({"max_new_tokens": 2.0}, "max_new_tokens .* 2.0"),
    ({"max_new_tokens": True}, "max_new_tokens"),
    ({"max_new_tokens": None}, "max_new_tokens"),
    ({"sampler": Temperature(0.7)}, "key"),
    ({"stop_ids": [-1]}, "stop_ids"),
    ({"stop_ids": [1, 2.0]}, "stop_ids"),
    ({"stop_ids": [VOCAB]}, "stop_ids .* 11"),
    ({"stop_ids": 3}, "stop_ids"),
    ({"prompts": None}, "prompts"),
]
GENERATE_ALONE = [
    ({"prompts": [[1], [1] * 18]}, "18 tokens"),
    ({"num_samples": 0}, "num_samples"),
    ({"num_samples": 2.0}, "num_samples"),
    ({"num_samples": 2, "prompts": [[1]]}, "num_samples"),
    ({"in_axes": 0}, "in_axes"),
    ({"prompts": [1], "resume": generate(spell(1), [1], max_new_tokens=0)}, "either prompts or resume"),
    ({"prompts": None, "resume": generate(spell(1), [1], max_new_tokens=0), "num_samples": 2}, "num_samples"),
    ({"prompts": None, "resume": generate(spell(1), [1] * 18, max_new_tokens=0)}, "18 tokens .* max_length"),
]


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(("arguments", "message"), [*WRONG, *GENERATE_ALONE], ids=str)
def test_generate_refuses_before_any_compute(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(Untouchable(), **OK | arguments)


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=str)
def test_stream_refuses_at_the_call(arguments, message):
    """Not at the first token."""
    arguments = OK | arguments
    with pytest.raises(ValueError, match=message):
        stream(Untouchable(), arguments.pop("prompts"), **arguments)


@pytest.mark.usefixtures("as_users")
def test_the_rest_refuses_too():
    with pytest.raises(ValueError, match="one prompt"):
        stream(Untouchable(), [[1], [2]], max_new_tokens=1)
    for arguments, message in WRONG:
        if "sampler" not in arguments:
            with pytest.raises(ValueError, match=message):
                beam_search(Untouchable(), **OK | {"num_beams": 2} | arguments)
    for texts in ([1], [[1, 2], [3]], [1, VOCAB], [1] * 21, [], [1.0, 2.0]):
        with pytest.raises(ValueError):  # noqa: PT011 (the messages are those of generate)
            score(Untouchable(), texts)
    with pytest.raises(ValueError, match="num_beams"):
        beam_search(Untouchable(), [1], max_new_tokens=1, num_beams=0)
    with pytest.raises(ValueError, match="length_penalty"):
        beam_search(Untouchable(), [1], max_new_tokens=1, num_beams=1, length_penalty=float("nan"))


@pytest.mark.slow  # eager; `test_decode_flags_what_does_not_fit` is its compiled brother
def test_decode_beyond_its_room_says_so():
    """`generate` never asks for more than fits; whoever calls `decode` is told by the flag."""
    lm = TransformerLM(
        TransformerLMConfig(vocab_size=7, embed_size=8, num_layers=1, num_heads=2, mlp_size=16, max_length=16),
        key=jax.random.key(0),
    )
    full = decode(lm.decoder(), jnp.array([1, 2, 3]), capacity=6, max_new_tokens=3)
    assert bool(full.finite)
    assert int(full.length) == 3
    over = decode(lm.decoder(), jnp.array([1, 2, 3]), capacity=6, max_new_tokens=9)
    assert not bool(over.finite)
    assert int(over.length) == 3
    assert int(over.context_length) == 6
