"""The tokenizer of a Hugging Face folder, by what lies in it."""

import json
import os
from pathlib import Path
from typing import Any

from zoo.pretrained import PretrainedError
from zoo.text.tokenizers.hugging_face import HuggingFaceTokenizer
from zoo.text.tokenizers.sentence_pieces import SentencePieceTokenizer


def load_tokenizer(
    folder: str | os.PathLike[str], *, target: bool = False
) -> HuggingFaceTokenizer | SentencePieceTokenizer:
    """The tokenizer of a model as Hugging Face's hub has it, in a folder on this machine. No code in it is run.

    | the folder has | which gives |
    | --- | --- |
    | `tokenizer.json` | a `HuggingFaceTokenizer` |
    | `source.spm`, `target.spm`, `vocab.json` (Marian) | a `SentencePieceTokenizer` of one side |
    | `spiece.model` (T5), `tokenizer.model` (Llama 1 and 2, Mistral, Gemma) alone | a `SentencePieceTokenizer` |

    Special tokens are those of `tokenizer_config.json` and `special_tokens_map.json`, else those of `config.json`.

    Args:
        folder: with the files above.
        target: of Marian, the side that is translated into.

    Raises:
        FileNotFoundError: there is none of these files.
        PretrainedError: one of them is damaged; the message names it.

    Example:
        >>> import pathlib, tempfile
        >>> words = {"type": "WordLevel", "vocab": {"<s>": 0, "cat": 1}, "unk_token": "<s>"}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = pathlib.Path(folder, "tokenizer.json").write_text(json.dumps({"model": words}))
        ...     _ = pathlib.Path(folder, "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
        ...     tokenizer = load_tokenizer(folder)
        >>> tokenizer.encode("cat").tolist(), tokenizer.start_id
        ([1], 0)
    """
    folder = Path(folder)
    settings = _read(folder / "special_tokens_map.json", {}) | _read(folder / "tokenizer_config.json", {})
    if (folder / "tokenizer.json").is_file():
        return _from_json(folder, settings)
    if (folder / "source.spm").is_file():
        side, vocabulary = ("target.spm", "target_vocab.json") if target else ("source.spm", "vocab.json")
        return _marian(folder, side, vocabulary, settings)
    for name in ("spiece.model", "tokenizer.model"):
        if (folder / name).is_file():
            return _sentence_pieces(folder / name, settings)
    raise FileNotFoundError(
        f"{folder} has no tokenizer: neither tokenizer.json nor source.spm, spiece.model or tokenizer.model"
    )


def _from_json(folder: Path, settings: dict[str, Any]) -> HuggingFaceTokenizer:
    file = folder / "tokenizer.json"
    definition = _read(file)
    try:
        ids = _ids(definition)
    except (AttributeError, KeyError, TypeError, IndexError):
        raise PretrainedError(f"{file} has no vocabulary") from None
    config = _read(folder / "config.json", {})

    def id_of(name: str) -> int | None:
        token = _content(settings.get(f"{name}_token"))
        if token in ids:
            return ids[token]
        known = config.get(f"{name}_token_id")
        return known[0] if isinstance(known, list) and known else known if isinstance(known, int) else None

    definition = definition | {"padding": None, "truncation": None}
    try:
        return HuggingFaceTokenizer(
            definition,
            start_id=id_of("bos"),
            stop_id=id_of("eos"),
            pad_id=id_of("pad"),
            mask_id=id_of("mask"),
            chat_template=_chat_template(folder, settings),
        )
    except ValueError as error:
        raise PretrainedError(f"{file}: {error}") from None


def _ids(definition: dict[str, Any]) -> dict[str, int]:
    """The id of each token of a `tokenizer.json`."""
    vocabulary = definition["model"]["vocab"]
    if isinstance(vocabulary, list):  # of pieces and their scores
        vocabulary = {entry[0]: i for i, entry in enumerate(vocabulary)}
    return vocabulary | {token["content"]: token["id"] for token in definition.get("added_tokens") or []}


def _marian(folder: Path, side: str, vocabulary: str, settings: dict[str, Any]) -> SentencePieceTokenizer:
    if not settings.get("separate_vocabs"):
        vocabulary = "vocab.json"
    ids = _read(folder / vocabulary)
    pieces = sorted(ids, key=ids.__getitem__)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise PretrainedError(f"{folder / vocabulary}: ids must be 0..{len(pieces) - 1}, each once")
    unknown, stop, pad = (
        ids.get(_content(settings.get(f"{name}_token")) or token)
        for name, token in (("unk", "<unk>"), ("eos", "</s>"), ("pad", "<pad>"))
    )
    if unknown is None or stop is None:
        raise PretrainedError(f"{folder / vocabulary} lacks <unk> or </s>")
    special: Any = {"start_id": pad, "stop_id": stop, "pad_id": pad, "unknown_id": unknown, "after": [stop]}
    return _of_model(folder / side, pieces=pieces, **special)  # (Marian's decoder starts with padding)


def _sentence_pieces(file: Path, settings: dict[str, Any]) -> SentencePieceTokenizer:
    plain = _of_model(file)

    def id_of(name: str, token: str) -> int | None:
        return plain.id_of(_content(settings.get(f"{name}_token")) or token)

    start, stop, pad = id_of("bos", "<s>"), id_of("eos", "</s>"), id_of("pad", "<pad>")
    if file.name == "spiece.model":  # T5, whose decoder starts with padding
        return _of_model(file, start_id=pad, stop_id=stop, pad_id=pad, after=[] if stop is None else [stop])
    adds_start = settings.get("add_bos_token", True) and start is not None
    adds_stop = settings.get("add_eos_token", False) and stop is not None
    before, after = [start] if adds_start else [], [stop] if adds_stop else []
    return _of_model(file, start_id=start, stop_id=stop, pad_id=pad, before=before, after=after)


def _of_model(file: Path, **options: Any) -> SentencePieceTokenizer:
    try:
        return SentencePieceTokenizer(file.read_bytes(), **options)
    except ValueError as error:
        raise PretrainedError(f"{file}: {error}") from None


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The one of `chat_template.jinja`, else that of the settings; of several with names the default."""
    if (file := folder / "chat_template.jinja").is_file():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _content(token: Any) -> str | None:
    """A token in the settings is a text, or an object with the text as its content."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _read(file: Path, absent: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object in a file, or `absent` where there is no such file and that is given."""
    if absent is not None and not file.is_file():
        return absent
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise PretrainedError(f"{file} must hold a JSON object")
    return content
