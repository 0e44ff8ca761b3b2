"""The process in which a chat template is rendered, a script without JAX: see `zoo.text.render_chat`."""

import datetime
import json
import signal
import sys
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks for training what a model says. Here it is its content."""

    tags = {"generation"}  # noqa: RUF012 (as the base class has it)

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def render(template: str, variables: dict[str, Any]) -> str:
    """The text; raises jinja2's errors and whatever a template may bring Python to raise."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        # jinja2's own is for HTML.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(template).render(**variables)


def limit(seconds: float, megabytes: int) -> None:
    """Ends this process after so much of the processor's time, and gives it no more memory than that."""
    try:
        import resource
    except ModuleNotFoundError:
        return
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))


def main() -> None:
    asked = json.load(sys.stdin)
    limit(asked["seconds"], asked["megabytes"])
    try:
        text = render(asked["template"], asked["variables"])
        answer = {"text": text}
        if len(text) > asked["characters"]:
            answer = {"error": f"makes a text of more than {asked['characters']:,} characters"}
        written = json.dumps(answer)
    except MemoryError:
        written = json.dumps({"error": f"takes more than {asked['megabytes']} MB"})
    except Exception as error:  # whatever a template does wrong is the template's fault
        written = json.dumps({"error": f"is refused: {type(error).__name__}: {error}"[:1000]})
    sys.stdout.write(written)


if __name__ == "__main__":
    main()
