"""A model that writes texts of one kind for texts of another: translations, answers, summaries."""

import dataclasses
import os
import string
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from zoo.models.abstract_encoder_decoder import AbstractEncoderDecoder
from zoo.nn.checks import check_choice, check_flags
from zoo.pretrained.huggingface import from_pretrained
from zoo.sampling import beam_search, generate
from zoo.sampling._checks import check_integer
from zoo.text.batches import Progress, in_batches
from zoo.text.pipeline import Pipeline, forbidden_ids, known_to
from zoo.text.tokenizers import Tokenizer, check_texts, load_tokenizer

_MARKS = str.maketrans("", "", string.punctuation + "¿¡")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Translator(Pipeline):
    """Maps texts to their translations.

    Args:
        model: with `decoders(sources, lengths)`.
        source, target: tokenizers of both sides.
        prefix: what is put before every text, as T5 was trained: "translate English to German: ".
        normal_form: the form of Unicode that texts are brought into, if the model was trained with it.
        standardise: whether texts lose their capitals and punctuation before, if the model was trained so.
        batch_size: texts that are translated together.

    Raises:
        ValueError: a setting is out of its range.
    """

    model: Any
    source: Tokenizer
    target: Tokenizer
    prefix: str = ""
    normal_form: Literal["NFC", "NFKC"] | None = None
    standardise: bool = False
    batch_size: int = 256

    def __post_init__(self):
        check_integer("batch_size", self.batch_size, 1)
        check_flags(standardise=self.standardise)
        if self.normal_form is not None:
            check_choice("normal_form", self.normal_form, ("NFC", "NFKC"))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, prefix: str = "", **changes: Any) -> "Translator":
        """Of a Hugging Face folder; `changes` as in `zoo.from_pretrained`, which has the errors, too.

        Raises:
            ValueError: the model there does not translate.
        """
        model = from_pretrained(folder, **changes)
        if not isinstance(model, AbstractEncoderDecoder):
            raise ValueError(f"{folder} holds a {type(model).__name__}, which has no source and target")
        sides = (load_tokenizer(folder, target=side) for side in (False, True))
        return cls(model=model, source=next(sides), target=next(sides), prefix=prefix)

    def __call__(
        self,
        texts: Sequence[str],
        *,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        max_new_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> list[str]:
        """The translation of each text, in their order.

        Args:
            texts: any number.
            num_beams: width of the search; 1 is greedy.
            length_penalty: of the search; 1 ranks by the mean log-probability of a token.
            max_new_tokens: most tokens of a translation, by default 8 more than twice its source's length rounded
                up; where the model has room for fewer, as many as it has.
            progress: called after each batch with the number of its texts, such as `tqdm(total=len(texts)).update`.

        Raises:
            TypeError: one text instead of many.
            ValueError: a text has no token, not even a special one, or one that the model does not know, is too long
                for the model, or a number is out of its range.
        """
        check_texts("texts", texts)
        asked = [self.prefix + self.normalised(text) for text in texts]
        most = self.model.max_length
        rows = [self.source.encode(text) for text in asked]
        for text, row in zip(asked, rows, strict=True):
            if not len(row) or (most is not None and len(row) > most):
                limit = "at least one token" if most is None else f"1 to {most} tokens"
                raise ValueError(f"a text must have {limit}, got {len(row)} in {text[:100]!r}")
        options: Any = {"num_beams": num_beams, "length_penalty": length_penalty}
        found: dict[int, str] = {}
        # All of a batch have one width: no text's company has a say in how long its translation may be.
        vocab_size = getattr(self.model.config, "source_vocab_size", None) or self.model.vocab_size
        for real, tokens, lengths in in_batches(
            rows, batch_size=self.batch_size, most=most, vocab_size=vocab_size, progress=progress
        ):
            longest = 2 * tokens.shape[1] + 8 if max_new_tokens is None else max_new_tokens
            written = self._write(tokens, lengths, longest, **options)
            found |= {i: self.target.decode(ids[ids >= 0]) for i, ids in zip(real.tolist(), written, strict=False)}
        return [found[i] for i in range(len(rows))]

    def normalised(self, text: str) -> str:
        """A text as the model knows texts."""
        form = self.normal_form
        text = text if form is None else unicodedata.normalize(form, text).strip()
        if not self.standardise:
            return text
        text = " ".join(text.lower().translate(_MARKS).split())
        return text if form is None else unicodedata.normalize(form, text)

    def _write(
        self, sources: Any, lengths: Any, longest: int, num_beams: int, length_penalty: float
    ) -> Int[np.ndarray, "batch new"]:
        """The ids of each translation without those that end it, then -1."""
        decoder, in_axes = self.model.decoders(sources, lengths)
        start = list(decoder.start_ids) or known_to(decoder, self.target.start_id)
        stops = list(decoder.stop_ids) or known_to(decoder, self.target.stop_id)
        if not start or not stops:
            raise ValueError("neither the model nor the target's tokenizer has an id that texts start and stop with")
        if decoder.max_length is not None:
            longest = min(longest, decoder.max_length - len(start))
        forbidden = forbidden_ids(decoder, self.target, stops)
        options: Any = {
            "max_new_tokens": longest, "stop_ids": stops, "forbidden_ids": forbidden, "in_axes": in_axes
        }  # fmt: skip
        prompts = [start] * len(sources)
        if num_beams == 1:
            written = np.asarray(generate(decoder, prompts, **options).tokens)
        else:
            options |= {"num_beams": num_beams, "length_penalty": length_penalty}
            written = np.asarray(beam_search(decoder, prompts, **options).tokens)[:, 0]
        return np.where(np.isin(written, stops), -1, written)
