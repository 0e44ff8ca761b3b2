"""English sentences and their Spanish translations, from Tatoeba by way of ManyThings.org (CC BY 2.0).

https://www.manythings.org/anki/ ; the edition of TensorFlow's and Keras's tutorials.
"""

import os

from data.download import Resource, fetch
from data.pairs import Pairs, read_pairs

SPA_ENG = Resource(
    name="spa-eng/spa.txt",
    url="https://storage.googleapis.com/download.tensorflow.org/data/spa-eng.zip",
    num_bytes=8_042_772,
    sha256="6ec60e212f812ee3430f7568ea6f33b6fb080e32193c5952e8da0ee8ba45574c",
    member="spa-eng/spa.txt",
    archive_bytes=8_000_000,
)


def load_spa_eng(data_dir: str | os.PathLike[str] | None = None, *, offline: bool = False) -> Pairs:
    """The tutorials' 118,964 pairs, downloaded once: source English, target Spanish.

    Args:
        data_dir: where to look for them first, see `data.download.fetch`.
        offline: don't use the network.

    Raises:
        DownloadError: they can't be had.
    """
    return read_pairs(fetch(SPA_ENG, data_dir, offline=offline))
