"""The tutorials' pairs: all of them, split as ever, and batches say what they say."""

import hashlib

import numpy as np
import pytest
from stored import FOLDER, needs

from data.download import DownloadError
from data.pairs import Pairs, TranslationBatches, split_pairs
from data.spa_eng import load_spa_eng
from data.vocabularies import fetch_vocabulary
from zoo.text import BytePairTokenizer


def test_pairs_that_are_nowhere_say_where_to_put_them(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("ZOO_DATA_DIR", raising=False)
    with pytest.raises(DownloadError, match=r"spa-eng/spa.txt in https://.*spa-eng\.zip"):
        load_spa_eng(tmp_path, offline=True)


@needs("spa-eng/spa.txt", "encodings/cl100k_base.tiktoken")
def test_the_real_pairs():
    pairs = load_spa_eng(FOLDER, offline=True)
    assert (len(pairs), len(set(pairs.source))) == (118_964, 102_904)
    assert next(iter(pairs)) == ("Go.", "Ve.")
    parts = split_pairs(pairs)
    assert {name: len(set(part.source)) for name, part in parts.items()} == {
        "train": 72_032, "validation": 15_436, "test": 15_436
    }  # fmt: skip
    texts = "".join(f"{source}\t{target}\n" for source, target in parts["test"])
    assert hashlib.sha256(texts.encode()).hexdigest().startswith("4d6b94296a4338d4")
    some = Pairs(parts["validation"].source[:2000], parts["validation"].target[:2000])
    files = fetch_vocabulary("cl100k_base", FOLDER, offline=True)
    tokenizer = BytePairTokenizer.named("cl100k_base", files).compacted(some.target)
    batches = TranslationBatches(
        some, tokenizer, tokenizer, batch_size=64, bucket_boundaries=((8, 8), (16, 16), (32, 32), (64, 64)), seed=None
    )
    written = set()
    for i in range(len(batches)):
        batch = batches[i]
        for row in np.flatnonzero(batch["weights"].any(axis=1)):
            ids = batch["targets"][row, batch["weights"][row] > 0]
            written.add(tokenizer.decode(ids))
    assert batches.left_out == 0
    assert written == set(some.target)
