"""A model with its tokenizers and settings in one file."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from zoo.decoder import AbstractDecoder
from zoo.serialisation import ModelFileError, load, read_extra, save
from zoo.text.tokenizers import Tokenizer, check_comes_back, tokenizer_from_json

KINDS: dict[str, type["Pipeline"]] = {}
_TOKENIZERS = ("tokenizer", "source", "target")


class Pipeline:
    """Text in, text out: a frozen dataclass of a model, tokenizers, and settings that are plain JSON."""

    model: Any

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        KINDS[cls.__name__] = cls

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to one file, for `zoo.text.load`; `zoo.load` reads the model alone.

        Raises as `zoo.save`, and `ValueError` for a tokenizer that the file would not give back: one's own.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # pyright: ignore
        model, saved = fields.pop("model"), dict(fields)
        for name in fields.keys() & set(_TOKENIZERS):
            check_comes_back(name, fields[name])
            saved[name] = fields[name].to_json()
        save(path, model, extra={"pipeline": type(self).__name__, **saved})


def known_to(decoder: AbstractDecoder, token: int | None) -> list[int]:
    """The special id of a tokenizer; none if it has no such id, or the model does not know it."""
    return [] if token is None or token >= decoder.vocab_size else [token]


def forbidden_ids(decoder: AbstractDecoder, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> tuple[int, ...]:
    """What is not written: the decoder's own forbidden ids, and those that the tokenizer can't decode.

    Models may have rows for more tokens than there are. Some tokenizers leave those out of a text, others raise.
    """
    beyond = set(range(tokenizer.vocab_size, decoder.vocab_size)) - set(stop_ids)
    try:
        tokenizer.decode(sorted(beyond)[:1])
    except ValueError:
        return tuple(sorted(beyond.union(decoder.forbidden_ids)))
    return tuple(decoder.forbidden_ids)


def load_pipeline(path: str | os.PathLike[str], cls: type | None = None) -> Any:
    """Reads what `Writer.save` and its like wrote, or a model that an example saved before there were these.

    Args:
        path: the file.
        cls: of the model, as in `zoo.load`.

    Returns:
        A `Writer`, `Classifier`, `Translator` or `Embedder`.

    Raises:
        ModelFileError: as `zoo.load`; or the file holds a model alone.
        FileNotFoundError: no such file.
    """
    extra = read_extra(path)
    if not isinstance(extra, dict):
        raise ModelFileError(f"{path} holds a model without a tokenizer")
    settings = dict(extra) if "pipeline" in extra else _of_earlier(extra)
    kind = KINDS.get(settings.pop("pipeline", None))
    if kind is None:
        raise ModelFileError(f"{path} holds a model without what zoo.text.load needs; got {sorted(extra)} beside it")
    tokenizers = set(_TOKENIZERS) & settings.keys()
    try:
        settings |= {name: tokenizer_from_json(settings[name]) for name in tokenizers}
        return kind(model=load(path, cls), **settings)  # pyright: ignore[reportCallIssue]
    except (TypeError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{path} has a damaged header: {error}") from error


def _of_earlier(extra: dict[str, Any]) -> dict[str, Any]:
    """What the examples kept beside a model up to version 0.2."""
    names = extra.keys()
    if {"tokenizer", "class_names", "max_tokens", "truncation"} <= names:
        return {"pipeline": "Classifier", **extra}
    if {"source", "target", "standardise"} <= names:
        return {"pipeline": "Translator", "normal_form": "NFC", **extra}
    return {"pipeline": "Writer", "tokenizer": extra["tokenizer"]} if "tokenizer" in names else {}
