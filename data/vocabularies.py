"""The files of tiktoken's vocabularies, pinned: what `zoo.text.BytePairTokenizer.named` makes a tokenizer of."""

import os
from pathlib import Path

from data.download import Resource, fetch

_OFFICIAL = "https://openaipublic.blob.core.windows.net/"


def _vocabulary(folder: str, url: str, num_bytes: int, sha256: str, tiktoken_name: str) -> Resource:
    """A file of a vocabulary; tiktoken's own cache has it under the SHA-1 of its address."""
    name = f"{folder}/{url.rpartition('/')[2]}"
    return Resource(name, _OFFICIAL + url, num_bytes, sha256, local=(f"tiktoken/{tiktoken_name}", tiktoken_name))


# fmt: off
VOCABULARIES: dict[str, tuple[Resource, ...]] = {
    "gpt2": (
        _vocabulary("gpt2", "gpt-2/encodings/main/vocab.bpe", 456_318,
                    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
                    "6d1cbeee0f20b3d9449abfede4726ed8212e3aee"),
        _vocabulary("gpt2", "gpt-2/encodings/main/encoder.json", 1_042_301,
                    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
                    "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6"),
    ),
    "cl100k_base": (
        _vocabulary("encodings", "encodings/cl100k_base.tiktoken", 1_681_126,
                    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
                    "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"),
    ),
    "o200k_base": (
        _vocabulary("encodings", "encodings/o200k_base.tiktoken", 3_613_922,
                    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
                    "fb374d419588a4632f3f557e76b4b70aebbca790"),
    ),
}
# fmt: on


def fetch_vocabulary(
    name: str, data_dir: str | os.PathLike[str] | None = None, *, offline: bool = False
) -> list[Path]:
    """The files of one of tiktoken's encodings, found or downloaded by `data.download.fetch` and checked.

    Args:
        name: "gpt2", "cl100k_base" or "o200k_base".
        data_dir: a folder to look in first; a TIKTOKEN_CACHE_DIR will do.
        offline: never use the network.

    Raises:
        ValueError: there is no encoding of that name.
        DownloadError: a file can't be had.
    """
    if name not in VOCABULARIES:
        raise ValueError(f"name must be one of {', '.join(VOCABULARIES)}; got {name!r}")
    return [fetch(resource, data_dir, offline=offline) for resource in VOCABULARIES[name]]
