"""Where the stored data lie: the data folder of ZOO_DATA_DIR; tests of what is not there are skipped."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("ZOO_DATA_DIR") or "no-data-folder")


def stored_folder(inside: str) -> Path:
    """The data folder, in which `inside` exists."""
    assert (FOLDER / inside).exists()
    return FOLDER


def needs(*files: str):
    """Skips a test unless all these files are in the data folder."""
    missing = [file for file in files if not (FOLDER / file).exists()]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)} in ZOO_DATA_DIR")
