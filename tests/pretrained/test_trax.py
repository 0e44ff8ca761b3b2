"""Trax checkpoints: the real one gives Trax's own answers, a made one agrees with a forward pass in numpy."""

import collections
import gzip
import os
import pickle
import sys
import types
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import generate
from zoo.pretrained import PretrainedError
from zoo.pretrained.trax import Leaf, Part, load_transformer_lm, name_weights, read_trax

FOLDERS = [Path(os.environ.get("ZOO_DATA_DIR", "")), Path(__file__).parents[2] / "../shared/data"]
REAL = max((folder / "trax/transformerlm_copy.pkl.gz" for folder in FOLDERS), key=Path.is_file)
real = pytest.mark.skipif(
    not REAL.is_file(), reason="needs Trax's checkpoint: ../shared/data beside the repository, or ZOO_DATA_DIR"
)

PROMPT = [0, 3, 7, 5, 3, 2, 4, 0]
BEAMS = {(3, 7, 5, 3, 2, 4): -0.003, (3, 7, 5, 3, 2, 2): -6.918, (3, 7, 5, 3, 3, 2): -7.480}


def forward(flat, num_heads, tokens):
    """Trax's TransformerLM in numpy, from its flat list: log-probabilities of the token after each."""
    weights = iter(np.asarray(array, np.float64) for array in flat)
    take = lambda: next(weights)  # noqa: E731

    def norm(x, scale, bias):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + bias

    def attention(x, wq, bq, wk, bk, wv, bv, wo, bo):
        size = x.shape[-1] // num_heads
        out = np.zeros_like(x)
        for head in range(num_heads):
            part = slice(head * size, (head + 1) * size)
            q, k, v = x @ wq[:, part] + bq[part], x @ wk[:, part] + bk[part], x @ wv[:, part] + bv[part]
            for i in range(len(x)):
                scores = k[: i + 1] @ q[i] / np.sqrt(size)
                scores = np.exp(scores - scores.max())
                out[i, part] = scores @ v[: i + 1] / scores.sum()
        return out @ wo + bo

    x = take()[tokens] + take()[0, : len(tokens)]
    for _ in range((len(flat) - 6) // 16):
        x = x + attention(norm(x, take(), take()), *(take() for _ in range(8)))
        h = norm(x, take(), take())
        x = x + np.maximum(h @ take() + take(), 0) @ take() + take()
    x = norm(x, take(), take())
    logits = x @ take() + take()
    assert next(weights, None) is None
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@eqx.filter_jit
def log_probs_of(lm, tokens):
    return jax.nn.log_softmax(lm(tokens))


def close(lm, flat, num_heads, tokens):
    ours = log_probs_of(lm, jnp.array(tokens))
    np.testing.assert_allclose(ours, forward(flat, num_heads, tokens), rtol=0, atol=2e-5)


@real
def test_the_real_checkpoint_agrees_with_numpy():
    lm = load_transformer_lm(REAL)
    assert (lm.vocab_size, lm.config.embed_size, lm.config.num_layers, lm.config.num_heads) == (13, 64, 2, 2)
    assert (lm.config.mlp_size, lm.max_length, lm.config.norm_epsilon) == (128, 256, 1e-6)
    flat = read_trax(REAL)["flat_weights"]
    close(lm, flat, 2, [0, *PROMPT, 3, 7, 5, 3, 2, 4])
    close(lm, flat, 2, np.random.default_rng(0).integers(0, 13, 256).tolist())


@real
def test_the_real_checkpoint_gives_traxs_answers():
    lm = load_transformer_lm(REAL)
    start = [0]  # Trax's decoder puts one more start symbol before the prompt
    answer = generate(lm.decoder(), start + PROMPT, max_new_tokens=6)
    assert answer.tokens.tolist() == [3, 7, 5, 3, 2, 4]
    assert float(answer.log_probs.sum()) == pytest.approx(-0.003, abs=0.001)
    assert generate(lm.decoder(), PROMPT, max_new_tokens=6).tokens.tolist() == [3, 7, 5, 3, 2, 4]
    for beam, expected in BEAMS.items():
        log_probs = np.asarray(log_probs_of(lm, jnp.array(start + PROMPT + list(beam[:-1]))))[-6:]
        assert log_probs[np.arange(6), list(beam)].sum() == pytest.approx(expected, abs=0.01)


@real
def test_what_else_the_real_checkpoint_says():
    tree = read_trax(REAL)
    assert tree["step"] == 5100
    assert len(tree["flat_weights"]) == len(tree["slots"]) == 38
    assert tree["history"].name == "trax.supervised.history.History"
    assert list(tree["history"].state["_values"]) == ["train", "eval"]
    assert [signature.name for signature in tree["input_signature"]] == ["trax.shapes.ShapeDtype"] * 3
    assert tree["input_signature"][0].state[1]["shape"] == (128, 12)
    assert sorted(module for module in sys.modules if module.split(".")[0] == "trax") == []


@real
def test_another_number_of_heads_is_another_model():
    """The sizes of the weights allow it, so the number has to be known."""
    tokens = [0, *PROMPT]
    flat = read_trax(REAL)["flat_weights"]
    close(load_transformer_lm(REAL, num_heads=4), flat, 4, tokens)
    assert np.abs(forward(flat, 4, tokens) - forward(flat, 2, tokens)).max() > 1


VOCAB, EMBED, LAYERS, HEADS, MLP, LENGTH = 7, 12, 3, 3, 20, 9


@pytest.fixture
def flat():
    """Weights of a small model, in Trax's order and shapes."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype("f4") / 2  # noqa: E731
    norm = lambda: [1 + draw(EMBED), draw(EMBED)]  # noqa: E731
    block = lambda: [  # noqa: E731
        *norm(),
        *[draw(*shape) for _ in range(4) for shape in ((EMBED, EMBED), (EMBED,))],
        *norm(),
        *[draw(EMBED, MLP), draw(MLP), draw(MLP, EMBED), draw(EMBED)],
    ]
    blocks = [array for _ in range(LAYERS) for array in block()]
    return [draw(VOCAB, EMBED), draw(1, LENGTH, EMBED), *blocks, *norm(), draw(EMBED, VOCAB), draw(VOCAB)]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a checkpoint as Trax does, with an object of a class of Trax's in it."""
    module = types.ModuleType("trax.supervised.history")
    history = type("History", (), {"__module__": module.__name__})
    module.History = history  # pyright: ignore[reportAttributeAccessIssue]

    def write(flat, *, protocol=3, **more):
        values = collections.defaultdict(list, {"loss": [(1, 0.5)]})
        saved = history()
        vars(saved)["_values"] = {"train": values}
        path = tmp_path / "model.pkl.gz"
        with monkeypatch.context() as context:
            for name in ("trax", "trax.supervised"):
                context.setitem(sys.modules, name, types.ModuleType(name))
            context.setitem(sys.modules, module.__name__, module)
            content = pickle.dumps({"step": 3, "flat_weights": flat, "history": saved, **more}, protocol)
        path.write_bytes(gzip.compress(content))
        return path

    return write


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_made_checkpoint_agrees_with_numpy(flat, write, protocol):
    lm = load_transformer_lm(write(flat, protocol=protocol), num_heads=HEADS)
    assert (lm.vocab_size, lm.config.embed_size, lm.config.num_layers) == (VOCAB, EMBED, LAYERS)
    assert (lm.config.mlp_size, lm.max_length) == (MLP, LENGTH)
    close(lm, flat, HEADS, [1, 6, 0, 3, 2, 2, 5, 4, 1])
    assert read_trax(write(flat))["history"].state == {"_values": {"train": {"loss": [(1, 0.5)]}}}


def test_types_and_layouts_of_arrays_are_taken_as_they_come(flat, write):
    odd = [np.asfortranarray(array).astype(">f8") for array in flat]
    close(load_transformer_lm(write(odd), num_heads=HEADS), flat, HEADS, [1, 2, 3])


@pytest.mark.parametrize("num_heads", [None, 5, 8, 0, -3])
def test_the_number_of_heads_is_asked_for(flat, write, num_heads):
    with pytest.raises(ValueError, match=rf"divisor of the embedding size 12 .*; got {num_heads}"):
        load_transformer_lm(write(flat), num_heads=num_heads)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda flat: flat[:-1], r"53 arrays instead of 6 and 16 for each layer"),
        (lambda flat: flat[:2] + flat[-4:], r"6 arrays instead of"),
        (lambda flat: [], r"0 arrays instead of"),
        (lambda flat: flat[::-1], r"no Trax TransformerLM"),
        (
            lambda flat: [*flat[:-1], np.zeros(VOCAB + 1, "f4")],
            r"head\.bias is float32\[8\], the model takes float32\[7\]",
        ),
        (lambda flat: [*flat[:-1], np.zeros(VOCAB, "i4")], r"head\.bias is int32\[7\], the model takes float32"),
        (lambda flat: [*flat[:2], flat[2][:3], *flat[3:]], r"no Trax TransformerLM"),
        (lambda flat: [array[:0] for array in flat], r"no Trax TransformerLM"),
        (lambda flat: [flat[0][:0], *flat[1:-2], flat[-2][:, :0], flat[-1][:0]], r"vocab_size must be .* at least 1"),
        (lambda flat: [*flat[:-1], None], r"no list of arrays"),
        (lambda flat: [*flat[:-1], flat[-1].astype(object)], r"no list of arrays"),
        (lambda flat: None, r"no list of arrays"),
        (lambda flat: {"a": flat}, r"no list of arrays"),
    ],
)
def test_other_weights_are_refused(flat, write, change, words):
    path = write(change(flat))
    with pytest.raises(PretrainedError, match=words) as caught:
        load_transformer_lm(path, num_heads=HEADS)
    assert str(path) in str(caught.value)


def test_a_checkpoint_without_weights(tmp_path):
    path = tmp_path / "model.pkl.gz"
    for data in ([1, 2], {"step": 3}, None):
        path.write_bytes(gzip.compress(pickle.dumps(data, 3)))
        with pytest.raises(PretrainedError, match="no list of arrays"):
            load_transformer_lm(path, num_heads=1)


def test_every_cut_and_every_flip_is_noticed(flat, write):
    path = write(flat)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [content[:length] for length in (0, 1, 2, 9, 10, 11, *rng.integers(12, len(content), 60), -1, -8)]
    for at in (0, 1, 2, *rng.integers(10, len(content), 100)):  # bytes 3 to 9 are flags and a date
        damaged.append(content[:at] + bytes([content[at] ^ 1 << rng.integers(8)]) + content[at + 1 :])
    damaged.append(content[:10] + bytes([content[10] | 0b110]) + content[11:])  # no kind of block has this number
    damaged += [content + b"x", content + content, gzip.decompress(content), b"<html>", content[::-1]]
    for bad in damaged:
        path.write_bytes(bad)
        with pytest.raises(PretrainedError) as caught:
            read_trax(path)
        assert str(path) in str(caught.value)


def test_a_hostile_checkpoint_executes_nothing(flat, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Hostile:
        def __reduce__(self):
            return os.system, ("echo > executed",)

    path = write(flat, slots=[Hostile()])
    with pytest.raises(PretrainedError, match=r"nothing in it was executed: a reference to '\w+\.system'"):
        load_transformer_lm(path, num_heads=HEADS)
    assert os.listdir(tmp_path) == [path.name]


def test_a_gzip_bomb_is_stopped(tmp_path, flat, write):
    bomb = tmp_path / "bomb.pkl.gz"
    bomb.write_bytes(gzip.compress(bytes(2**24)))
    with pytest.raises(PretrainedError, match="unpacks to more than"):
        read_trax(bomb)
    with pytest.raises(PretrainedError, match="unpacks to more than 1000 bytes"):
        read_trax(write(flat), max_bytes=1000)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_transformer_lm(tmp_path / "none.pkl.gz")
    with pytest.raises(IsADirectoryError):
        load_transformer_lm(tmp_path)


def test_another_family_is_another_table():
    """Two stacks of blocks, as an encoder-decoder has them."""
    table = (
        Part([Leaf("embedding.weight")]),
        Part([Leaf("up.weight", np.transpose)], blocks="encoder.blocks"),
        Part([Leaf("norm.weight"), Leaf("norm.bias")]),
        Part([Leaf("up.weight", np.transpose), Leaf("up.bias")], blocks="decoder.blocks"),
        Part([Leaf("head.weight")]),
    )
    flat = [np.full((i + 2, 3), i) for i in range(4)]
    flat = [flat[0], np.full((2, 3), 1), np.full((2, 3), 2), *flat[1:3]]
    flat += [array for i in range(2) for array in (np.full((2, 5), 10 + i), np.full(5, 20 + i))] + [np.zeros(1)]
    named = name_weights(flat, table)
    assert list(named) == [
        *("embedding.weight", "encoder.blocks.up.weight", "norm.weight", "norm.bias"),
        *("decoder.blocks.up.weight", "decoder.blocks.up.bias", "head.weight"),
    ]
    assert named["encoder.blocks.up.weight"].shape == (2, 3, 2)
    assert named["encoder.blocks.up.weight"][:, 0, 0].tolist() == [1, 2]
    assert named["decoder.blocks.up.bias"][:, 0].tolist() == [20, 21]
    with pytest.raises(ValueError, match="9 arrays instead of 4 and 3 for each layer"):
        name_weights(flat[:-1], table)
