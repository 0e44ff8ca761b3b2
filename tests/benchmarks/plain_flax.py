"""The models of the text-classification and translation tutorials in Flax NNX, trained the way these train them.

Sizes are the tutorials'. `copy_weights` gives them the weights of ours, so that both can be compared.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx  # pyright: ignore[reportMissingImports]

from zoo import EncoderDecoder, TextConvNet, TransformerClassifier


class Embedding(nnx.Module):
    """Tokens and learned positions."""

    def __init__(self, vocab: int, length: int, width: int, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(vocab, width, rngs=rngs)
        self.positions = nnx.Embed(length, width, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        return self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[1])[None])


class Block(nnx.Module):
    """Attention, attention to a memory where there is one, and two dense layers, each with a norm behind its sum."""

    def __init__(
        self, width: int, heads: int, mlp: int, rngs: nnx.Rngs, *, dropout: float = 0.0, cross: bool = False
    ):
        def attention() -> nnx.MultiHeadAttention:
            return nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)

        def norm() -> nnx.LayerNorm:
            return nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)

        self.attention, self.norm = attention(), norm()
        self.cross, self.cross_norm = (attention(), norm()) if cross else (None, None)
        self.up, self.down = nnx.Linear(width, mlp, rngs=rngs), nnx.Linear(mlp, width, rngs=rngs)
        self.mlp_norm = norm()
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: Any, memory: Any = None, mask: Any = None) -> Any:
        x = self.norm(x + self.dropout(self.attention(x, x, x, mask=mask)))
        if self.cross is not None:
            x = self.cross_norm(x + self.cross(x, memory, memory))
        return self.mlp_norm(x + self.dropout(self.down(nnx.relu(self.up(x)))))


class Classifier(nnx.Module):
    """The Transformer of `TransformerClassifier`'s defaults; like the tutorial's it has no masks."""

    def __init__(self, vocab: int, length: int = 200, *, dropout: float = 0.1, rngs: nnx.Rngs):
        self.embedding = Embedding(vocab, length, 32, rngs)
        self.block = Block(32, 2, 32, rngs, dropout=dropout)
        self.hidden, self.head = nnx.Linear(32, 20, rngs=rngs), nnx.Linear(20, 2, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        x = self.dropout(self.block(self.embedding(tokens)).mean(axis=1))
        return self.head(self.dropout(nnx.relu(self.hidden(x))))


class ConvNet(nnx.Module):
    """Two strided convolutions and the largest value of each channel: `TextConvNet`'s defaults, without masks."""

    def __init__(self, vocab: int, *, dropout: float = 0.5, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(vocab, 128, rngs=rngs)
        self.convolutions = nnx.List([nnx.Conv(128, 128, 7, strides=3, rngs=rngs) for _ in range(2)])
        self.norms = nnx.List([nnx.LayerNorm(128, rngs=rngs) for _ in range(2)])
        self.hidden, self.head = nnx.Linear(128, 128, rngs=rngs), nnx.Linear(128, 2, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        x = self.dropout(self.embedding(tokens))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nnx.relu(norm(convolution(x)))
        x = nnx.max_pool(x, window_shape=(x.shape[1],))[:, 0]
        return self.head(self.dropout(nnx.relu(self.hidden(x))))


class Translator(nnx.Module):
    """One encoder and one decoder block, one embedding for both languages, all logits at once, no padding masks."""

    def __init__(
        self, vocab: int, width: int = 256, heads: int = 8, mlp: int = 2048, *, dropout: float = 0.5, rngs: nnx.Rngs
    ):
        self.embedding = Embedding(vocab, 20, width, rngs)
        self.encoder, self.decoder = Block(width, heads, mlp, rngs), Block(width, heads, mlp, rngs, cross=True)
        self.dropout, self.head = nnx.Dropout(dropout, rngs=rngs), nnx.Linear(width, vocab, rngs=rngs)

    def __call__(self, sources: Any, inputs: Any) -> Any:
        memory = self.encoder(self.embedding(sources))
        causal = jnp.tril(jnp.ones((inputs.shape[1], inputs.shape[1]), bool))[None, None]
        return self.head(self.dropout(self.decoder(self.embedding(inputs), memory, causal)))


@nnx.jit
def train_step(model: Any, optimiser: Any, inputs: tuple[Any, ...], targets: Any) -> Any:
    """Adam on the mean cross-entropy of all targets, those of padding too; the loss before the step."""

    def loss(model: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(model(*inputs), targets).mean()

    value, gradient = nnx.value_and_grad(loss)(model)
    optimiser.update(model, gradient)
    return value


class Training:
    """A model and its optimiser; a call makes one step and waits for its loss."""

    def __init__(self, model: Any, learning_rate: float):
        model.train()
        self.model, self.optimiser = model, nnx.Optimizer(model, optax.adam(learning_rate, 0.9), wrt=nnx.Param)

    def __call__(self, *batch: np.ndarray) -> float:
        *inputs, targets = batch
        return float(train_step(self.model, self.optimiser, tuple(inputs), targets))


def count_parameters(make: Any) -> int:
    """Of the model that a function makes, without making it."""
    shapes = nnx.state(nnx.eval_shape(make), nnx.Param)
    return sum(int(np.prod(variable.shape)) for _, variable in nnx.to_flat_state(shapes))


def copy_weights(ours: TransformerClassifier | TextConvNet | EncoderDecoder, theirs: Any) -> Any:
    """`theirs` with the weights of ours, which has to be of the same sizes."""
    if isinstance(ours, TextConvNet):
        _put(theirs.embedding, ours.embedding)
        for i, (convolution, norm) in enumerate(zip(ours.convolutions[0], ours.norms[0], strict=True)):
            _put(theirs.convolutions[i], convolution.linear)
            _put(theirs.norms[i], norm)
    else:
        _put(theirs.embedding.tokens, ours.embedding)
        _put(theirs.embedding.positions, ours.position_embedding)
    if isinstance(ours, TransformerClassifier):
        _put_block(theirs.block, ours.stack.unstack()[0])
    if isinstance(ours, EncoderDecoder):
        _put_block(theirs.encoder, ours.encoder_stack.unstack()[0])
        _put_block(theirs.decoder, ours.decoder_stack.unstack()[0])
    else:
        _put(theirs.hidden, ours.hidden_layer)
    _put(theirs.head, ours.head)
    return theirs


def _put_block(theirs: Block, ours: Any) -> None:
    attentions = [(theirs.attention, ours.attention)]
    _put(theirs.norm, ours.attention_norm)
    if theirs.cross is not None:
        attentions.append((theirs.cross, ours.cross_attention))
        _put(theirs.cross_norm, ours.cross_attention_norm)
    for attention, same in attentions:
        _put(attention.query, same.query)
        _put(attention.key, same.key)
        _put(attention.value, same.value)
        _put(attention.out, same.output)
    _put(theirs.up, ours.mlp.up)
    _put(theirs.down, ours.mlp.down)
    _put(theirs.mlp_norm, ours.mlp_norm)


def _put(theirs: Any, ours: Any) -> None:
    """One layer's weights. Flax's kernels have inputs before outputs, and axes for heads or taps."""
    if isinstance(theirs, nnx.Embed):
        theirs.embedding[...] = jnp.array(ours.weight)
    elif isinstance(theirs, nnx.LayerNorm):
        theirs.scale[...], theirs.bias[...] = jnp.array(ours.weight), jnp.array(ours.bias)
    else:
        theirs.kernel[...] = ours.weight.T.reshape(theirs.kernel.shape)
        theirs.bias[...] = ours.bias.reshape(theirs.bias.shape)
