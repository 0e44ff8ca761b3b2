"""The one sampling module, for everything that generates; of a model it knows `zoo.decoder` alone."""

from zoo.sampling._beam import Beams as Beams
from zoo.sampling._beam import beam_search as beam_search
from zoo.sampling._decode import Generated as Generated
from zoo.sampling._decode import decode as decode
from zoo.sampling._decode import decode_tokens as decode_tokens
from zoo.sampling._decode import prefill_prompts as prefill_prompts
from zoo.sampling._generate import generate as generate
from zoo.sampling._generate import stream as stream
from zoo.sampling._prompts import NonFiniteLogitsError as NonFiniteLogitsError
from zoo.sampling._samplers import AbstractSampler as AbstractSampler
from zoo.sampling._samplers import Chain as Chain
from zoo.sampling._samplers import Forbid as Forbid
from zoo.sampling._samplers import Greedy as Greedy
from zoo.sampling._samplers import MinP as MinP
from zoo.sampling._samplers import PresencePenalty as PresencePenalty
from zoo.sampling._samplers import RepetitionPenalty as RepetitionPenalty
from zoo.sampling._samplers import Temperature as Temperature
from zoo.sampling._samplers import TopK as TopK
from zoo.sampling._samplers import TopP as TopP
from zoo.sampling._score import Scored as Scored
from zoo.sampling._score import score as score
