"""Parts that the models share, one concept a file. They know no model."""

from zoo.nn.attention import KVCache as KVCache
from zoo.nn.attention import MultiHeadAttention as MultiHeadAttention
from zoo.nn.attention import attend as attend
from zoo.nn.embedding import LearnedPositions as LearnedPositions
from zoo.nn.embedding import RotaryPositions as RotaryPositions
from zoo.nn.embedding import Rotation as Rotation
from zoo.nn.embedding import SinusoidalPositions as SinusoidalPositions
from zoo.nn.embedding import TokenEmbedding as TokenEmbedding
from zoo.nn.embedding import sinusoids as sinusoids
from zoo.nn.feed_forward import FeedForward as FeedForward
from zoo.nn.linear import Linear as Linear
from zoo.nn.masks import cache_mask as cache_mask
from zoo.nn.masks import causal_mask as causal_mask
from zoo.nn.masks import padding_mask as padding_mask
from zoo.nn.recurrent import AbstractCell as AbstractCell
from zoo.nn.recurrent import GRUCell as GRUCell
from zoo.nn.recurrent import LSTMCell as LSTMCell
from zoo.nn.recurrent import RNNCell as RNNCell
from zoo.nn.recurrent import run_cell as run_cell
from zoo.nn.stack import Stack as Stack
from zoo.nn.transformer import CrossAttentionBlock as CrossAttentionBlock
from zoo.nn.transformer import TransformerBlock as TransformerBlock
from zoo.nn.transformer import make_norm as make_norm
