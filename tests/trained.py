"""Small tokenizers of every kind, trained in a moment on a few lines: the families that models come with."""

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.text import (
    BytePairTokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    WordTokenizer,
)

LINES = [
    "Once upon a time there was a little girl, and she didn't like the dark.",
    "The quick brown fox jumps over the lazy dog; the dog isn't amused.",
    "Wo ist der Bahnhof? Gleich hinter dem großen Gebäude, zweite Straße links.",
    "¿Dónde está la estación? El niño pequeño soñaba con montañas y mañanas.",
    "世界 hello 😀 world, 你好 the end. Once upon a time the world was dark.",
] * 4
START, STOP, PAD, UNKNOWN = "<s>", "</s>", "<pad>", "<unk>"


def byte_level() -> dict[str, Any]:
    """As GPT-2's: pairs of bytes, and one special token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return json.loads(tokenizer.to_str())


def llama() -> dict[str, Any]:
    """As Llama's: pairs of characters with spaces as `▁`, bytes where a character is unknown, `<s>` before a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers

    special = [UNKNOWN, START, STOP]
    tokenizer: Any = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special + fallback, limit_alphabet=50, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A {START}:1 $B:1", special_tokens=[(START, 1)]
    )
    definition = json.loads(tokenizer.to_str())
    # Bytes are ordinary tokens of the vocabulary, not special ones.
    definition["added_tokens"] = [token for token in definition["added_tokens"] if token["content"] in special]
    return definition


def word_piece() -> dict[str, Any]:
    """As BERT's: lower case, pieces of words, `[CLS]` and `[SEP]` around a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(8)
    return json.loads(tokenizer.to_str())


def unigram() -> dict[str, Any]:
    """As T5's: the likeliest pieces, `</s>` after a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer: Any = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=180, special_tokens=[PAD, STOP, UNKNOWN], unk_token=UNKNOWN, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {STOP}", pair=f"$A {STOP} $B {STOP}", special_tokens=[(STOP, 1)]
    )
    return json.loads(tokenizer.to_str())


DEFINITIONS = {"byte level": byte_level, "llama": llama, "word piece": word_piece, "unigram": unigram}


@functools.cache
def definition(name: str) -> dict[str, Any]:
    """The content of one of these tokenizers' `tokenizer.json`."""
    return DEFINITIONS[name]()


@functools.cache
def sentence_piece_model(kind: str) -> bytes:
    """A SentencePiece model: "bpe" with bytes for unknown characters, or "unigram" with T5's special ids."""
    import sentencepiece

    written = io.BytesIO()
    options: Any = (
        {"byte_fallback": True, "vocab_size": 400}
        if kind == "bpe"
        else {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 85}
    )
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=written, model_type=kind, minloglevel=2, **options
    )
    return written.getvalue()


_BYTES = [bytes([i]) for i in range(256)]
_MAKE: dict[str, Callable[[], Tokenizer]] = {
    "characters": lambda: CharacterTokenizer.from_text("".join(LINES) + "\ud800"),
    "bytes": ByteTokenizer,
    "words": lambda: WordTokenizer.from_texts(LINES),
    "byte pairs": lambda: BytePairTokenizer(
        r"\s?\S+|\s+", [*_BYTES, b"th", b"the", b" the", b"\xe4\xb8", b"\x96\xe7", b"a\xf0"]
    ),
    "byte level": lambda: HuggingFaceTokenizer(definition("byte level")),
    "llama": lambda: HuggingFaceTokenizer(definition("llama")),
    "word piece": lambda: HuggingFaceTokenizer(definition("word piece")),
    "unigram": lambda: HuggingFaceTokenizer(definition("unigram")),
    "sentence pieces bpe": lambda: SentencePieceTokenizer(
        sentence_piece_model("bpe"), start_id=1, stop_id=2, before=[1]
    ),
    "sentence pieces unigram": lambda: SentencePieceTokenizer(
        sentence_piece_model("unigram"), stop_id=1, pad_id=0, after=[1]
    ),
}
NAMES = sorted(_MAKE)


@functools.cache
def tokenizer(name: str) -> Tokenizer:
    """One of every kind."""
    return _MAKE[name]()


def write_folder(folder: Path, name: str, **settings: Any) -> Path:
    """A folder with a tokenizer of this kind and its settings, as Hugging Face's hub has it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(definition(name)), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
