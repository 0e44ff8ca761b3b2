"""Text models in JAX as pure pytrees: Equinox modules that map one example's tokens to logits.

Set ZOO_TYPECHECK=1 before the import to check all shapes and types of this package at run time.
"""

import os

if os.environ.get("ZOO_TYPECHECK", "0") not in ("", "0"):
    from jaxtyping import install_import_hook

    # This package alone: whatever else is called `data` or `training` in the user's program is not ours to change.
    install_import_hook(["zoo"], "beartype.beartype")

from zoo.decoder import AbstractDecoder as AbstractDecoder
from zoo.decoder import PositionIndexed as PositionIndexed
from zoo.lora import LoRA as LoRA
from zoo.lora import add_lora as add_lora
from zoo.lora import lora_filter as lora_filter
from zoo.lora import merge_lora as merge_lora
from zoo.models.abstract_encoder_decoder import AbstractEncoderDecoder as AbstractEncoderDecoder
from zoo.models.abstract_text_encoder import AbstractTextEncoder as AbstractTextEncoder
from zoo.models.char_rnn import CharRNN as CharRNN
from zoo.models.char_rnn import CharRNNConfig as CharRNNConfig
from zoo.models.encoder_decoder import EncoderDecoder as EncoderDecoder
from zoo.models.encoder_decoder_config import EncoderDecoderConfig as EncoderDecoderConfig
from zoo.models.gemma import Gemma as Gemma
from zoo.models.gemma import GemmaConfig as GemmaConfig
from zoo.models.modern_bert import ModernBert as ModernBert
from zoo.models.modern_bert import ModernBertConfig as ModernBertConfig
from zoo.models.t5 import T5 as T5
from zoo.models.t5 import T5Config as T5Config
from zoo.models.text_convnet import TextConvNet as TextConvNet
from zoo.models.text_convnet import TextConvNetConfig as TextConvNetConfig
from zoo.models.text_encoder import TextEncoder as TextEncoder
from zoo.models.text_encoder import TextEncoderConfig as TextEncoderConfig
from zoo.models.transformer_classifier import TransformerClassifier as TransformerClassifier
from zoo.models.transformer_classifier import TransformerClassifierConfig as TransformerClassifierConfig
from zoo.models.transformer_lm import TransformerLM as TransformerLM
from zoo.models.transformer_lm import TransformerLMConfig as TransformerLMConfig
from zoo.models.transformer_lm_classifier import TransformerLMClassifier as TransformerLMClassifier
from zoo.models.transformer_lm_classifier import TransformerLMClassifierConfig as TransformerLMClassifierConfig
from zoo.pretrained.huggingface import from_pretrained as from_pretrained
from zoo.pretrained.huggingface import to_pretrained as to_pretrained
from zoo.rebuild import rebuild as rebuild
from zoo.sampling import AbstractSampler as AbstractSampler
from zoo.sampling import Beams as Beams
from zoo.sampling import Chain as Chain
from zoo.sampling import Forbid as Forbid
from zoo.sampling import Generated as Generated
from zoo.sampling import Greedy as Greedy
from zoo.sampling import MinP as MinP
from zoo.sampling import NonFiniteLogitsError as NonFiniteLogitsError
from zoo.sampling import PresencePenalty as PresencePenalty
from zoo.sampling import RepetitionPenalty as RepetitionPenalty
from zoo.sampling import Scored as Scored
from zoo.sampling import Temperature as Temperature
from zoo.sampling import TopK as TopK
from zoo.sampling import TopP as TopP
from zoo.sampling import beam_search as beam_search
from zoo.sampling import decode as decode
from zoo.sampling import generate as generate
from zoo.sampling import score as score
from zoo.sampling import stream as stream
from zoo.serialisation import ModelFileError as ModelFileError
from zoo.serialisation import load as load
from zoo.serialisation import read_extra as read_extra
from zoo.serialisation import save as save
from zoo.summary import count_parameters as count_parameters
from zoo.summary import summary as summary
from zoo.version import __version__ as __version__
