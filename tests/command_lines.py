"""Several command lines of one script, answered by one Python, which has imported what the script needs.

Each is a fork with arguments, exit code, output and errors of its own, so that what a process does at its end is
seen; but the second that the imports take is spent once for all. What starts up, and what is killed, is tested with
processes of its own.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def answers(script: Path, *command_lines: Sequence[object], **options: Any) -> list[subprocess.CompletedProcess]:
    """What each did; `options` are those of `subprocess.run`."""
    lines = [[str(script), *map(str, words)] for words in command_lines]
    if not hasattr(os, "fork"):
        commands = [[sys.executable, *words] for words in lines]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return [
            subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, **options)
            for command in commands
        ]
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=240,
        **options,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    return [subprocess.CompletedProcess(words, *result) for words, result in zip(lines, results, strict=True)]


def answer(words: list[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of a fork that runs a script as Python would."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            for number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out.fileno()), (2, errors.fileno())):
                os.dup2(file, number)
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
            sys.exit()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return code, texts[0], texts[1]


if __name__ == "__main__":
    lines = json.load(sys.stdin)
    runpy.run_path(lines[0][0], run_name="imports only")
    print(json.dumps([answer(words) for words in lines]))
