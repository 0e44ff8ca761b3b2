"""A language model that continues texts and answers in conversations."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from zoo.decoder import AbstractDecoder
from zoo.models.abstract_encoder_decoder import AbstractEncoderDecoder
from zoo.pretrained.huggingface import from_pretrained
from zoo.sampling import Chain, Temperature, TopP, generate, stream
from zoo.sampling._checks import check_integer, check_key
from zoo.text.batches import Progress
from zoo.text.chat import Message, render_chat
from zoo.text.detokeniser import check_stops, detokenise, until
from zoo.text.pipeline import Pipeline, forbidden_ids, known_to
from zoo.text.tokenizers import HuggingFaceTokenizer, Tokenizer, check_texts, load_tokenizer


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Writer(Pipeline):
    """Maps a text to what comes after it.

    Its numbers are defaults, which each call may change. A text longer than the model's `max_length` goes on from
    the second half of what is there.

    Args:
        model: with a `decoder()`.
        tokenizer: of its ids.
        max_new_tokens: most tokens to write.
        temperature: of what is drawn, at least 0; 0 takes the likeliest token.
        top_p: draws from the likeliest tokens of so much probability alone.
        batch_size: prompts that are continued together.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> from zoo import CharRNN, CharRNNConfig
        >>> from zoo.text import CharacterTokenizer
        >>> config = CharRNNConfig(vocab_size=3, hidden_size=8, num_layers=1)
        >>> model = CharRNN(config, key=jax.random.key(0))
        >>> writer = Writer(model=model, tokenizer=CharacterTokenizer("ab "), max_new_tokens=5)
        >>> text = writer("ab")
        >>> text == "".join(writer.stream("ab")), len(text)
        (True, 5)
    """

    model: Any
    tokenizer: Tokenizer
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    batch_size: int = 16

    def __post_init__(self):
        check_integer("batch_size", self.batch_size, 1)
        check_integer("max_new_tokens", self.max_new_tokens, 0)
        Chain(TopP(self.top_p), Temperature(self.temperature))  # which check their numbers

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **changes: Any) -> "Writer":
        """Of a Hugging Face folder; `changes` as in `zoo.from_pretrained`, which has the errors, too.

        Raises:
            ValueError: the model there does not write.
        """
        model = from_pretrained(folder, **changes)
        if not hasattr(model, "decoder") or isinstance(model, AbstractEncoderDecoder):
            raise ValueError(f"{folder} holds a {type(model).__name__}, which writes no text of its own")
        return cls(model=model, tokenizer=load_tokenizer(folder))

    @functools.cached_property
    def decoder(self) -> AbstractDecoder:
        """The model with its weights laid out for one token at a time."""
        return self.model.decoder()

    @property
    def stop_ids(self) -> list[int]:
        """What ends a text: the model's own ids, and the tokenizer's."""
        return sorted({*self.decoder.stop_ids, *known_to(self.decoder, self.tokenizer.stop_id)})

    @functools.cached_property
    def forbidden_ids(self) -> tuple[int, ...]:
        """What is never written: the model's own ids, and those that the tokenizer can't decode."""
        return forbidden_ids(self.decoder, self.tokenizer, self.stop_ids)

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        stop: Iterable[str] | None = (),
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Iterator[str]:
        """Yields what comes after a text, piece by piece, as soon as no later token can change it.

        Args:
            prompt: the text, or its ids; an empty text where the model has an id that texts start with.
            stop: strings that end the text. Nothing of them is yielded, wherever tokens begin and end.
            max_new_tokens, temperature, top_p: other numbers than the writer's.
            key: of what is drawn; by default that of seed 0, so that a prompt has the same text again.

        Raises:
            TypeError: a seed in place of a key.
            ValueError: a prompt without a token, an empty stop string, or numbers out of range; at the call.
        """
        ids = self._ids(prompt) if isinstance(prompt, str) else list(prompt)
        tokens = self._tokens(ids, *self._numbers(max_new_tokens, temperature, top_p, key))
        return until(detokenise(self.tokenizer, tokens, after=ids), stop)

    def chat(self, messages: Sequence[Message], **options: Any) -> Iterator[str]:
        """Yields the model's answer to a conversation, written as its chat template has it.

        Args:
            messages: `{"role": "user", "content": "Hello!"}`, ...; see `render_chat`.
            options: arguments of `stream`.

        Raises:
            ValueError: the tokenizer has no chat template; or as `stream` and `render_chat`.
        """
        tokenizer = self.tokenizer
        if not isinstance(tokenizer, HuggingFaceTokenizer) or tokenizer.chat_template is None:
            raise ValueError("the tokenizer has no chat template: this is no model for conversations")
        text = render_chat(tokenizer.chat_template, messages, variables=tokenizer.special_tokens())
        return self.stream(tokenizer.encode(text, add_special=False).tolist(), **options)

    def __call__(self, prompt: str, **options: Any) -> str:
        """What comes after a text: the pieces of `stream` together, with its arguments and errors."""
        return "".join(self.stream(prompt, **options))

    def batch(
        self,
        prompts: Sequence[str],
        *,
        stop: Iterable[str] | None = (),
        progress: Progress | None = None,
        **numbers: Any,
    ) -> list[str]:
        """What comes after each of many texts, in their order; those of like length are continued together.

        Numbers, `key` and errors as in `stream`. What is likeliest depends on each prompt alone; what is drawn, on
        the key and on all the prompts. `progress` is called with the number of prompts that are done since the last
        call.
        """
        check_texts("prompts", prompts)
        stop = check_stops(stop)
        rows = [self._ids(prompt) for prompt in prompts]
        count, sampler, row_key = self._numbers(**numbers)
        most = self.decoder.max_length
        together = [i for i, row in enumerate(rows) if most is None or len(row) + count <= most]
        together.sort(key=lambda i: len(rows[i]))
        written: dict[int, list[int]] = {}
        for start in range(0, len(together), self.batch_size):
            batch = together[start : start + self.batch_size]
            generated = generate(
                self.decoder, [rows[i] for i in batch], max_new_tokens=count, sampler=sampler,
                stop_ids=self.stop_ids, forbidden_ids=self.forbidden_ids, key=jax.random.fold_in(row_key, batch[0]),
            )  # fmt: skip
            for i, ids in zip(batch, np.asarray(generated.tokens), strict=True):
                written[i] = ids[(ids >= 0) & ~np.isin(ids, self.stop_ids)].tolist()
            if progress is not None:
                progress(len(batch))
        for i in set(range(len(rows))) - set(together):  # their windows have to move
            written[i] = list(self._tokens(rows[i], count, sampler, jax.random.fold_in(row_key, i)))
            if progress is not None:
                progress(1)
        return ["".join(until(detokenise(self.tokenizer, written[i], after=row), stop)) for i, row in enumerate(rows)]

    def _ids(self, prompt: str) -> list[int]:
        """The ids of a prompt, without what the tokenizer puts at the end of a text: it goes on."""
        ids = self.tokenizer.encode(prompt).tolist()
        ids = ids[: len(ids) - len(self.tokenizer.after)]
        if not ids:
            ids = list(self.decoder.start_ids)
        if not ids:
            ids = known_to(self.decoder, self.tokenizer.start_id)
        if not ids:
            raise ValueError(f"prompt must have at least one token to continue, got {prompt!r}")
        return ids

    def _numbers(
        self,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[int, Chain, PRNGKeyArray]:
        """How much to write and how, with the writer's own numbers where a call gives none."""
        check_key(key)
        count = check_integer("max_new_tokens", self.max_new_tokens if max_new_tokens is None else max_new_tokens, 0)
        cold = self.temperature if temperature is None else temperature
        mass = self.top_p if top_p is None else top_p
        return count, Chain(TopP(mass), Temperature(cold)), jax.random.key(0) if key is None else key

    def _tokens(self, prompt: list[int], count: int, sampler: Any, key: PRNGKeyArray) -> Iterator[int]:
        """The new ids, the window moved on where it is full. Wrong arguments raise at the call."""
        decoder, stops, most = self.decoder, self.stop_ids, self.decoder.max_length

        def begin(ids: list[int]) -> Iterator[int]:
            new = len(ids) - len(prompt)
            seen = ids if most is None or len(ids) < most else ids[-(most // 2) :]
            room = count - new if most is None else min(count - new, most - len(seen))
            if room < 1 <= count - new:
                raise ValueError(f"the model's max_length ({most}) leaves no room for a new token")
            window_key = key if new == 0 else jax.random.fold_in(key, new)
            ids_of: Any = {"stop_ids": stops, "forbidden_ids": self.forbidden_ids}
            return stream(decoder, seen, max_new_tokens=room, sampler=sampler, key=window_key, **ids_of)

        def tokens(window: Iterator[int]) -> Iterator[int]:
            ids = list(prompt)
            while True:
                for token in window:
                    if token in stops:
                        return
                    ids.append(token)
                    yield token
                if len(ids) - len(prompt) >= count:
                    return
                window = begin(ids)

        return tokens(begin(list(prompt)))
