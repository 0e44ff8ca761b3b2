"""Nothing in `zoo`, `data` and `training` may need Linux."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_trains_saves_and_resumes_without_what_linux_alone_has(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/training/other_system.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**kept, "PYTHONPATH": str(ROOT), "ZOO_CACHE_DIR": str(tmp_path / "cache")},
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *_, first, again, second = [line for line in done.stdout.splitlines() if line.startswith(("finished", "resumed"))]
    assert first.startswith("finished 6 ")
    assert (again, second) == ("resumed after step 6", first)
