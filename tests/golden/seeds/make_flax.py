"""Writes 000.npz to 003.npz: what the seeds' own Flax models answer, on weights of `seed_weights`.

    PYTHONPATH=. python tests/golden/seeds/make_flax.py FOLDER

The folder has the seeds' documents (`000*.txt` to `003*.txt`), whose classes are executed as they stand, but for a
`softmax` at the end of a model, which gives way to its argument, and `jax.ops.index_update`, which JAX no longer has.
In an environment with this repository and Flax.
"""

import ast
import importlib.metadata
import re
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx  # pyright: ignore[reportMissingImports]

import zoo
from tests.golden.seeds.models import CHAR_RNN, CLASSIFIER, CONVNETS, LENGTHS, TRANSLATOR, filled

HERE = Path(__file__).parent


def modules_of(folder, number, **names):
    """The modules that a document defines, by name, in a namespace that has these names."""
    text = next(Path(folder).glob(f"{number}*.txt")).read_text(encoding="utf-8")
    space = {"jax": jax, "jnp": jnp, "nnx": nnx, **names}
    for cell in re.findall(r"^```(?:\{code-cell\} ipython3|python)\n(.*?)^```", text, re.M | re.S):
        if re.search(r"^class \w+\(nnx?\.Module\)", cell, re.M):
            tree = ast.parse(cell)
            tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef)]
            exec(compile(tree, number, "exec"), space)
    return types.SimpleNamespace(**space)


def save(number, **arrays):
    """The file of a seed, with the versions that made it."""
    versions = [f"{package} {importlib.metadata.version(package)}" for package in ("flax", "jax", "numpy")]
    np.savez_compressed(HERE / f"{number}.npz", versions=np.array(versions), **arrays)


def put(theirs, ours):
    """One layer's weights. Flax's kernels have inputs before outputs, and axes for heads or taps."""
    if isinstance(theirs, nnx.Embed):
        theirs.embedding[...] = jnp.array(ours.weight)
    elif isinstance(theirs, nnx.LayerNorm):
        theirs.scale[...], theirs.bias[...] = jnp.array(ours.weight), jnp.array(ours.bias)
    else:
        theirs.kernel[...] = ours.weight.T.reshape(theirs.kernel.shape)
        theirs.bias[...] = ours.bias.reshape(theirs.bias.shape)


def put_attention(theirs, ours):
    for name, same in (("query", ours.query), ("key", ours.key), ("value", ours.value), ("out", ours.output)):
        put(getattr(theirs, name), same)


def random_tokens(vocab_size, *shape):
    return np.random.RandomState(1).randint(0, vocab_size, shape).astype(np.int32)


def classifier(folder):
    ours = filled(zoo.TransformerClassifier, CLASSIFIER)
    sizes = {"vocab_size": 500, "maxlen": 200, "embed_dim": 32, "num_heads": 2, "ff_dim": 32}
    without_softmax = types.SimpleNamespace(
        **{**vars(jax), "nn": types.SimpleNamespace(relu=jax.nn.relu, softmax=lambda x: x)}
    )
    theirs = modules_of(folder, "000", jax=without_softmax, **sizes).MyModel(nnx.Rngs(0))
    theirs.eval()
    put(theirs.embedding_layer.token_emb, ours.embedding)
    put(theirs.embedding_layer.pos_emb, ours.position_embedding)
    (block,), same = ours.stack.unstack(), theirs.transformer_block
    put_attention(same.attention, block.attention)
    for one, other in (
        (same.layer_norm_1, block.attention_norm), (same.layer_norm_2, block.mlp_norm), (same.dense_1, block.mlp.up),
        (same.dense_2, block.mlp.down), (theirs.dense1, ours.hidden_layer), (theirs.dense2, ours.head),
    ):  # fmt: skip
        put(one, other)
    tokens = random_tokens(500, 4, 200)
    save("000", tokens=tokens, logits=np.asarray(theirs(tokens)))


def convnets(folder):
    answers, tokens = {}, random_tokens(500, 2, max(LENGTHS))
    TextConvNet = modules_of(folder, "001", Callable=object).TextConvNet
    for config, sizes in zip(CONVNETS, ({"embed_dim": 128, "hidden_dim": 128, "conv_ksize": 7}, {}), strict=True):
        ours, theirs = filled(zoo.TextConvNet, config), TextConvNet(500, **sizes)
        theirs.eval()
        put(theirs.token_embedding, ours.embedding)
        for i in range(2):
            put(getattr(theirs, f"conv{i + 1}"), ours.convolutions[0][i].linear)
            put(getattr(theirs, f"lnorm{i + 1}"), ours.norms[0][i])
        put(theirs.fc1, ours.hidden_layer)
        put(theirs.fc2, ours.head)
        kernel_size = config.branches[0][0][0]
        for length in LENGTHS:
            answers[f"logits_{kernel_size}_{length}"] = np.asarray(theirs(tokens[:, :length]))
    save("001", tokens=tokens, **answers)


def translator(folder):
    ours = filled(zoo.EncoderDecoder, TRANSLATOR)
    theirs = modules_of(folder, "002").TransformerModel(20, 100, 256, 2048, 8, 0.5, rngs=nnx.Rngs(0))
    theirs.eval()
    put(theirs.positional_embedding.token_embeddings, ours.embedding)
    put(theirs.positional_embedding.position_embeddings, ours.position_embedding)
    put(theirs.dense, ours.head)
    (encoder,), (decoder,) = ours.encoder_stack.unstack(), ours.decoder_stack.unstack()
    put_attention(theirs.encoder.attention, encoder.attention)
    put_attention(theirs.decoder.attention_1, decoder.attention)
    put_attention(theirs.decoder.attention_2, decoder.cross_attention)
    norms = (decoder.attention_norm, decoder.cross_attention_norm, decoder.mlp_norm)
    for i, norm in enumerate(norms, start=1):
        put(getattr(theirs.decoder, f"layernorm_{i}"), norm)
    put(theirs.encoder.layernorm_1, encoder.attention_norm)
    put(theirs.encoder.layernorm_2, encoder.mlp_norm)
    for same, block in ((theirs.encoder, encoder), (theirs.decoder, decoder)):
        put(same.dense_proj.layers[0], block.mlp.up)
        put(same.dense_proj.layers[2], block.mlp.down)
    sources, inputs = random_tokens(100, 2, 2, 20)
    inputs = inputs[:, :19]
    save("002", sources=sources, inputs=inputs, logits=np.asarray(theirs(sources, inputs, deterministic=True)))


def char_rnn(folder):
    ours = filled(zoo.CharRNN, CHAR_RNN)
    nn = types.SimpleNamespace(**{**vars(linen), "softmax": lambda x: x})
    theirs = modules_of(folder, "003", nn=nn, np=jnp, one_hot=jax.nn.one_hot).ChaRNN(128, 64)
    params = {}
    for i, cell in enumerate(ours.cells):
        # Theirs is one matrix for the state and the input, in this order.
        kernel = jnp.concatenate([cell.recurrent.weight, cell.input.weight], axis=1).T
        params[f"RNNCell_{i}"] = {"Dense_0": {"kernel": kernel, "bias": cell.input.bias}}
    params["Dense_0"] = {"kernel": ours.head.weight.T, "bias": ours.head.bias}
    tokens = random_tokens(64, 256)
    step = jax.jit(lambda state, i: theirs.apply({"params": params}, state, i))
    state, logits = theirs.init_state(), []
    for token in tokens:
        state, given = step(state, token)
        logits.append(given)
    save("003", tokens=tokens, logits=np.array(logits)[7::8], state=np.array(state))


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    for make in (classifier, convnets, translator, char_rnn):
        make(sys.argv[1])
