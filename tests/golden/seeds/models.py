"""The seeds' models with the weights of `seed_weights`; of tables of tokens, fewer rows than the seeds have."""

from typing import Any

import equinox as eqx
import jax

import zoo
from tests.golden.seeds.seed_weights import seed_weights
from zoo.rebuild import named_arrays, with_arrays

LENGTHS = (64, 200, 499, 500)
CLASSIFIER = zoo.TransformerClassifierConfig(vocab_size=500, num_classes=2)
_CONVNET: Any = {"vocab_size": 500, "num_classes": 2, "padding": "SAME", "norm_epsilon": 1e-6}
CONVNETS = (
    zoo.TextConvNetConfig(**_CONVNET),
    zoo.TextConvNetConfig(
        **_CONVNET, branches=(((12, 6), (12, 6)),), embed_size=256, num_filters=320, hidden_size=320
    ),
)
TRANSLATOR = zoo.EncoderDecoderConfig(vocab_size=100)
CHAR_RNN = zoo.CharRNNConfig(vocab_size=64, hidden_size=128, num_layers=3)


def filled(cls: Any, config: Any) -> Any:
    """A model in inference mode whose arrays are `seed_weights`, in the order of their names."""
    skeleton = eqx.filter_eval_shape(cls, config, key=jax.random.key(0))
    shapes = {name: array.shape for name, array in sorted(named_arrays(skeleton).items())}
    return eqx.nn.inference_mode(with_arrays(skeleton, seed_weights(shapes)))
