"""What `translate.py` learns from: spa-eng or anybody's pairs, in three parts, and the tokenizers of both sides."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from data.bucket_boundaries import suggest_bucket_boundaries
from data.pairs import Pairs, read_pairs, read_parallel, split_pairs
from data.spa_eng import load_spa_eng
from data.tokenizer import TargetTokenizer
from data.vocabularies import fetch_vocabulary
from zoo.text import BytePairTokenizer, Tokenizer, Translator, train_byte_pairs

PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusArguments:
    """Which pairs, and which vocabularies."""

    pairs: Path | None = None
    """A file of tab-separated pairs; by default spa-eng (downloaded once)."""
    train_source: Path | None = None
    """Or a file with a sentence in each line. (--help-all: ready parts.)"""
    train_target: Path | None = None
    """And one with their translations in the same lines."""
    validation_source: Path | None = None
    """Ready parts: sentences to choose the best model by; without, and without a test, each is 15 %."""
    validation_target: Path | None = None
    """Their translations."""
    test_source: Path | None = None
    """Ready parts: sentences of the test."""
    test_target: Path | None = None
    """Their translations."""
    tokenizer: str | None = None
    """bpe:8000: so many byte pairs trained on each side, as by default; compacted: those of cl100k that occur, as in
    the tutorial."""
    data_dir: Path | None = None
    """A folder with the data already; also ZOO_DATA_DIR."""

    def check(self) -> None:
        """Raises `ValueError` for files that don't go together, and for a tokenizer that there is not."""
        given = {part: [file is not None for file in self._files(part)] for part in PARTS}
        for part, sides in given.items():
            if any(sides) != all(sides):
                raise ValueError(f"--{part}-source and --{part}-target must be given together")
        if any(given["validation"]) != any(given["test"]) or any(given["test"]) > any(given["train"]):
            raise ValueError("ready parts are three: training, validation and test, each with its source and target")
        if self.pairs is not None and any(given["train"]):
            raise ValueError("give either --pairs or --train-source and --train-target, not both")
        if self.tokenizer not in (None, "compacted"):
            size = re.fullmatch(r"bpe:(\d{1,7})", self.tokenizer)
            if size is None or int(size[1]) < 259:
                raise ValueError(f"--tokenizer must be compacted or bpe:N with N from 259 on; got {self.tokenizer}")

    def _files(self, part: str) -> tuple[Any, Any]:
        return getattr(self, f"{part}_source"), getattr(self, f"{part}_target")

    @property
    def is_own(self) -> bool:
        """Whether the pairs are the user's."""
        return self.pairs is not None or self.train_source is not None

    def load(self, *, standardise: bool) -> dict[str, Pairs]:
        """The pairs in three parts: ready ones, or split by sentence."""
        if self.test_source is not None:
            parts = {part: read_parallel(*self._files(part)) for part in PARTS}
            return {part: _standardised(pairs) if standardise else pairs for part, pairs in parts.items()}
        if self.train_source is not None:
            pairs = read_parallel(*self._files("train"))
        else:
            pairs = load_spa_eng(self.data_dir) if self.pairs is None else read_pairs(self.pairs)
        return split_pairs(_standardised(pairs) if standardise else pairs)

    def tokenizers(self, train: Pairs, min_count: int | None) -> tuple[BytePairTokenizer, BytePairTokenizer]:
        """Of both sides. `min_count` says how often a token of cl100k has to occur; without, as in the tutorial, both
        sides have one tokenizer, by default of cl100k."""
        sides = [train.source, train.target] if min_count else [(*train.source, *train.target)]
        name = self.tokenizer or ("bpe:8000" if min_count else "compacted")
        if name == "compacted":
            whole = BytePairTokenizer.named("cl100k_base", fetch_vocabulary("cl100k_base", self.data_dir))
            found = [whole.compacted(side, min_count=min_count or 1) for side in sides]
        else:
            found = [train_byte_pairs(side, int(name.removeprefix("bpe:"))) for side in sides]
        return found[0], found[-1]


def _standardised(pairs: Pairs) -> Pairs:
    """In lower case without punctuation; says how many pairs were nothing else."""
    left = pairs.standardised()
    if gone := len(pairs) - len(left):
        print(f"left out {gone:,} pairs that have only punctuation on a side")
    return left


@dataclasses.dataclass(frozen=True)
class TargetSide:
    """A translator's tokenizer of the target as training takes it: a text's ids alone, and how the model knows its
    start and stop."""

    tokenizer: Tokenizer
    start_id: int
    stop_id: int

    @classmethod
    def of(cls, translator: Translator) -> "TargetSide":
        """Raises `ValueError` unless the model or the tokenizer has one id of each."""
        config, tokenizer = translator.model.config, translator.target
        starts = list(config.start_ids) or [tokenizer.start_id]
        stops = list(config.stop_ids) or [tokenizer.stop_id]
        if len(starts) != 1 or len(stops) != 1 or None in starts + stops:
            raise ValueError(f"--init-from must have one id to start with and one to stop; got {starts} and {stops}")
        return cls(tokenizer, starts[0], stops[0])

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        ids = self.tokenizer.encode(text)
        return ids[len(self.tokenizer.before) : len(ids) - len(self.tokenizer.after)]

    def to_json(self) -> dict[str, Any]:
        return {"target": self.tokenizer.to_json(), "start_id": self.start_id, "stop_id": self.stop_id}


def sides_of(translator: Translator) -> tuple[Tokenizer, TargetSide]:
    """The tokenizers with which a translator is trained further."""
    return translator.source, TargetSide.of(translator)


def suggested_boundaries(
    pairs: Pairs,
    source: Tokenizer,
    target: TargetTokenizer,
    *,
    most: int,
    num_shapes: int,
    others: Sequence[Pairs] = (),
) -> Sequence[tuple[int, int]]:
    """Boundaries for `TranslationBatches`: the least padding for pairs of at most `most` tokens on each side.

    The last one holds the pairs of `others`, parts that are not trained on, too, and may be one more.
    """

    def lengths_of(pairs: Pairs) -> Int[np.ndarray, "pairs 2"]:
        found = np.array([(len(source.encode(a)), len(target.encode(b)) + 1) for a, b in pairs])
        return found[(found <= most).all(axis=1)]

    lengths = lengths_of(pairs)
    if not len(lengths):
        raise ValueError(f"no pair has at most {most} tokens on both sides, which is what the model takes")
    columns = {"source": lengths[:, 0], "target": lengths[:, 1]}
    found = suggest_bucket_boundaries(columns, num_shapes, multiple_of=2)
    *smaller, last = zip(found["source"], found["target"], strict=True)
    longest = np.concatenate([[last], *map(lengths_of, others)]).max(axis=0).tolist()
    if longest[0] > last[0] and longest[1] > last[1]:
        smaller.append(last)
    return [*smaller, (longest[0], longest[1])]
