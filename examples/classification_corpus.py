"""What `imdb_classifier.py` learns from: IMDB, in its own form or Keras's, or anybody's labelled texts."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from data.bucket_boundaries import suggest_bucket_boundaries
from data.buckets import Buckets
from data.imdb import load_imdb
from data.keras_imdb import load_keras_imdb
from data.labelled import LabelledCorpus, LabelledTexts, load_labelled, tokenised
from data.ragged import Ragged, Truncation
from data.vocabularies import fetch_vocabulary
from examples.imdb_presets import Preset
from zoo.pretrained.inert_pickle import read_inert_pickle
from zoo.text import BytePairTokenizer, Tokenizer, WordTokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusArguments:
    """Which texts, and how much they weigh."""

    train: Path | None = None
    """Texts of yours, not IMDB: a .tsv, .csv or .jsonl, or a folder of classes."""
    validation: Path | None = None
    """To choose the best epoch by; else 15 % of --train."""
    test: Path | None = None
    """Of the test; else 15 % of --train."""
    columns: tuple[str, ...] = ("text", "label")
    """Columns of text and class, or numbers from 0 where the first line has no names."""
    weigh_classes: bool = False
    """In training, let all classes together count alike, however many texts each has."""
    data_dir: Path | None = None
    """A folder with aclImdb/ already; also ZOO_DATA_DIR."""
    max_tokens: int | None = None
    """Most tokens of a text that are read; by default the preset's."""
    truncation: Truncation | None = None
    """What is kept of a longer text: its first tokens, its last, or half of both ends."""
    keras_ids: Path | None = None
    """A folder with Keras's imdb.npz and imdb_word_index.json, whose words and ids are taken then."""

    def check(self) -> None:
        """Raises `ValueError` for files that don't go together, and for columns that are none."""
        if self.train is None and (self.validation is not None or self.test is not None):
            raise ValueError("--validation and --test need --train")
        if self.train is not None and self.keras_ids is not None:
            raise ValueError("give either --train or --keras-ids, not both")
        if len(self.columns) != 2 or len({column.isdecimal() for column in self.columns}) > 1:
            raise ValueError(f"--columns must be two names or two numbers; got {' '.join(self.columns)}")
        if self.columns[0] == self.columns[1]:
            raise ValueError(f"--columns must be different, text and class; got {' '.join(self.columns)}")

    def load(self) -> tuple[LabelledCorpus, list[str] | None]:
        """The texts, and the words in the order of their ids if that is Keras's."""
        if self.train is not None:
            columns: Any = tuple(int(column) if column.isdecimal() else column for column in self.columns)
            return load_labelled(self.train, self.validation, self.test, columns=columns), None
        if self.keras_ids is None:
            return load_imdb(self.data_dir), None
        return load_keras_imdb(self.keras_ids, unpickle=read_inert_pickle)

    def make_tokenizer(self, train: LabelledTexts, words: list[str] | None, preset: Preset) -> Tokenizer:
        """Of these words, or made from the texts to train on."""
        if words is not None:
            return WordTokenizer(words[: preset.model.vocab_size - 3])  # three ids are special
        if preset.tokenizer == "words":
            return WordTokenizer.from_texts(train, preset.model.vocab_size)
        return BytePairTokenizer.named("gpt2", fetch_vocabulary("gpt2", self.data_dir)).compacted(train)

    def cut(self, preset: Preset, model: Any) -> dict[str, Any]:
        """How many tokens of a text are read, and which.

        Args:
            preset: says what nobody asked for.
            model: to begin with, or the config of a new one.

        Raises:
            ValueError: the model takes fewer tokens than are asked for.
        """
        most = getattr(model, "max_length", None)
        if self.max_tokens is not None and most is not None and self.max_tokens > most:
            raise ValueError(f"--max-tokens must be at most the model's max_length, {most}; got {self.max_tokens}")
        read = self.max_tokens or min(preset.max_tokens, most or preset.max_tokens)
        return {"max_tokens": read, "truncation": self.truncation or preset.truncation}

    def encoded(
        self,
        corpus: LabelledCorpus,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        truncation: Truncation,
        of_imdb: tuple[int, ...],
    ) -> "EncodedCorpus":
        """The corpus as ids, cut to what a model takes, and padded to as many lengths as IMDB is (`of_imdb`)."""
        parts = {"train": corpus.train, "validation": corpus.validation, "test": corpus.test}
        special: Any = {"before": len(tokenizer.before), "after": len(tokenizer.after)}
        ids = {
            name: tokenised(part, tokenizer).cut(max_tokens, truncation, **special) for name, part in parts.items()
        }
        numbers = {name: {"labels": part.labels} for name, part in parts.items()} | {
            "train": self.numbers(parts["train"])
        }
        return EncodedCorpus(ids, numbers, self.boundaries(ids["train"], max_tokens, of_imdb))

    def numbers(self, texts: LabelledTexts) -> dict[str, np.ndarray]:
        """What there is of each text to train on beside its tokens."""
        numbers = {"labels": texts.labels}
        return numbers | {"weights": texts.class_weights()[texts.labels]} if self.weigh_classes else numbers

    def boundaries(self, ids: Ragged, max_tokens: int, of_imdb: tuple[int, ...]) -> tuple[int, ...]:
        """Lengths to pad to: as many for texts of one's own as for IMDB's, with the least padding."""
        if self.train is None and of_imdb[-1] == max_tokens:
            return of_imdb
        found = suggest_bucket_boundaries({"tokens": ids.lengths}, len(of_imdb))["tokens"]
        return found if found[-1] == max_tokens else (*found, max_tokens)  # other parts may have longer texts


@dataclasses.dataclass(frozen=True)
class EncodedCorpus:
    """The ids of a corpus's texts by part, the numbers that go with them, and the lengths that they are padded to."""

    ids: dict[str, Ragged]
    numbers: dict[str, dict[str, np.ndarray]]
    boundaries: tuple[int, ...]

    def batches(self, part: str, batch_size: int, *, seed: int | None, shard: tuple[int, int]) -> Buckets:
        """Batches of a part; without a seed every text once, for an evaluation."""
        boundaries = {"tokens": self.boundaries}
        options: Any = {"batch_size": batch_size, "bucket_boundaries": boundaries, "seed": seed, "shard": shard}
        return Buckets({"tokens": self.ids[part]}, self.numbers[part], **options)
