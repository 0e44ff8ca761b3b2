"""What `imdb_classifier.py` learns from: IMDB, in its own form or Keras's, or anybody's labelled texts."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from data.bucket_boundaries import suggest_bucket_boundaries
from data.imdb import load_imdb
from data.keras_imdb import load_keras_imdb
from data.labelled import LabelledCorpus, LabelledTexts, load_labelled
from data.ragged import Ragged
from zoo.pretrained.inert_pickle import read_inert_pickle


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusArguments:
    """Which texts, and how much they weigh."""

    train: Path | None = None
    """Texts of yours to train on, instead of IMDB: a .tsv, .csv or .jsonl, or a folder with one for each class."""
    validation: Path | None = None
    """To choose the best epoch by; else 15 % of --train."""
    test: Path | None = None
    """Of the test; else 15 % of --train."""
    columns: tuple[str, ...] = ("text", "label")
    """Columns of text and class, or numbers from 0 where the first line has no names."""
    weigh_classes: bool = False
    """In training, let all classes together count alike, however many texts each has."""
    data_dir: Path | None = None
    """A folder that holds aclImdb/ already, instead of a download; also ZOO_DATA_DIR."""
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

    def load(self) -> tuple[LabelledCorpus, list[str] | None]:
        """The texts, and the words in the order of their ids if that is Keras's."""
        if self.train is not None:
            columns: Any = tuple(int(column) if column.isdecimal() else column for column in self.columns)
            return load_labelled(self.train, self.validation, self.test, columns=columns), None
        if self.keras_ids is None:
            return load_imdb(self.data_dir), None
        return load_keras_imdb(self.keras_ids, unpickle=read_inert_pickle)

    def numbers(self, texts: LabelledTexts) -> dict[str, np.ndarray]:
        """What there is of each text to train on beside its tokens."""
        numbers = {"labels": texts.labels}
        return numbers | {"weights": texts.class_weights()[texts.labels]} if self.weigh_classes else numbers

    def boundaries(self, ids: Ragged, max_tokens: int, of_imdb: tuple[int, ...]) -> tuple[int, ...]:
        """Lengths to pad to: as many for texts of one's own as for IMDB's, with the least padding."""
        if self.train is None:
            return of_imdb
        found = suggest_bucket_boundaries({"tokens": ids.lengths}, len(of_imdb))["tokens"]
        return found if found[-1] == max_tokens else (*found, max_tokens)  # other parts may have longer texts
