"""Vocabularies: pinned files, by name."""

import pytest

from data.download import DownloadError
from data.vocabularies import fetch_vocabulary


def test_a_vocabulary_that_is_nowhere_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path))
    with pytest.raises(DownloadError, match=r"cl100k_base\.tiktoken"):
        fetch_vocabulary("cl100k_base", tmp_path, offline=True)
    with pytest.raises(ValueError, match="name must be one of gpt2, cl100k_base, o200k_base; got 'gpt3'"):
        fetch_vocabulary("gpt3", tmp_path, offline=True)
