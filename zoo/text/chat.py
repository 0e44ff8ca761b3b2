"""A conversation as the text that a model was trained on, by the template that comes with the model."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.text.extra import text_extra

Message = Mapping[str, Any]
"""One turn of a conversation: `{"role": "user", "content": "Hello!"}`; roles and further keys are the template's."""


class ChatTemplateError(ValueError):
    """A chat template that is wrong, refuses the conversation, or takes more than it may."""


def render_chat(
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    seconds: float = 2.0,
    megabytes: int = 256,
    characters: int = 1_000_000,
    **variables: Any,
) -> str:
    """The text of a conversation by a Hugging Face chat template, as `apply_chat_template` of transformers gives it.

    A template is a program that came with somebody's model. It runs in jinja2's sandbox, which keeps it away from
    everything but the conversation, and in a process of its own, which ends when it takes too much: the sandbox alone
    would compute `"a" * 10**10`. That takes a tenth of a second. (Memory and processor time are limited where the
    system can: not on Windows, where the process ends after ten times as long by the clock.)

    Args:
        template: jinja2's language with blocks trimmed, `break` and `continue`, the functions `raise_exception` and
            `strftime_now`, the filter `tojson` and the block `generation`.
        messages: turns of the conversation, plain JSON.
        add_generation_prompt: whether the text ends with the beginning of the model's answer.
        seconds: most time of the processor.
        megabytes: most memory, jinja2's own included.
        characters: most of the text.
        variables: what else the template may use, plain JSON: `bos_token`, `tools`, ...

    Raises:
        ChatTemplateError: the template is wrong, refuses the conversation, or takes more than that.

    Example:
        >>> template = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
        >>> render_chat(template, [{"role": "user", "content": "Hello!"}])
        '<user>Hello!'
    """
    with text_extra():
        import jinja2  # noqa: F401 (what the other process imports is named here if it is missing)
    given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
    asked = {
        "template": template,
        "variables": given | variables,
        "seconds": seconds,
        "megabytes": megabytes,
        "characters": characters,
    }
    try:
        done = subprocess.run(
            # Not as a module of `zoo`, which would import JAX; -P, because modules beside it are not the library's.
            [sys.executable, "-P", str(Path(__file__).with_name("chat_process.py"))],
            input=json.dumps(asked).encode(),
            capture_output=True,
            timeout=10 * seconds + 20,
        )
    except subprocess.TimeoutExpired:
        raise ChatTemplateError(f"the chat template takes more than {seconds:g} s") from None
    if done.returncode == -getattr(signal, "SIGPROF", 0):
        raise ChatTemplateError(f"the chat template takes more than {seconds:g} s")
    try:
        answer = json.loads(done.stdout)
    except ValueError:  # it was killed, or crashed
        raise ChatTemplateError(f"the chat template ended its process with {done.returncode}") from None
    if "error" in answer:
        raise ChatTemplateError(f"the chat template {answer['error']}")
    return answer["text"]
