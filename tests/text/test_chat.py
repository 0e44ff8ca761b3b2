"""Chat templates: known styles, and what a hostile one may do, which is nothing but end with an error."""

import re
import subprocess

import pytest
from chat_templates import CHATML, CONVERSATIONS, GEMMA, LLAMA_3, MISTRAL

from zoo.text import ChatTemplateError, render_chat

HELLO = CONVERSATIONS[0]


def test_known_styles():
    assert render_chat(LLAMA_3, CONVERSATIONS[2], bos_token="<s>") == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert render_chat(CHATML, HELLO, add_generation_prompt=False) == (
        "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n"
    )
    assert render_chat(MISTRAL, CONVERSATIONS[1], bos_token="<s>", eos_token="</s>") == (
        '<s> [INST]   What is <b>2 & 3</b>? {{ 1 }} \n [/INST] "5", 世界 😀</s> [INST]  [/INST]'
    )
    assert render_chat(GEMMA, HELLO, bos_token="<bos>") == (
        "<bos><start_of_turn>user\nHello!<end_of_turn>\n<start_of_turn>model\n"
    )


HOSTILE = {
    "a product of a text": '{{ "a" * 10**10 }}',
    "a power": "{{ 9 ** (9 ** 9) }}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a text doubled": "{% set n = namespace(x='a') %}{% for _ in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a wide format": '{{ "%9999999999d" % 1 }}',
    "a wide field": '{{ "{:>9999999999}".format(1) }}',
    "a wide centre": "{{ 'a'.center(10**10) }}",
    "a filter": "{{ ('a' * 10**6) | replace('a', 'b' * 10**6) }}",
    "a macro that calls itself": "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "much text": "{% for i in range(99999) %}{{ 'a' * 99 }}{% endfor %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_takes_too_much_ends(name):
    with pytest.raises(ChatTemplateError, match=r"takes more than|makes a text of more|is refused"):
        render_chat(HOSTILE[name], HELLO, seconds=0.5, characters=100_000)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ ''.__class__.__mro__ }}", "SecurityError|unsafe"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ raise_exception.__globals__.os }}", "SecurityError|unsafe"),
        ("{% include '/etc/passwd' %}", "is refused"),
        ("{{ raise_exception('no such role') }}", "TemplateError: no such role"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_what_is_not_allowed_is_named(template, said):
    with pytest.raises(ChatTemplateError, match=said):
        print(render_chat(template, HELLO))


def test_a_process_that_hangs_or_dies_is_an_error(monkeypatch):
    """As far as the system's own limits do not hold."""

    def hangs(command, **options):
        assert options["timeout"] > 0
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(ChatTemplateError, match=re.escape("takes more than 2 s")):
        render_chat(CHATML, HELLO)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, -11, b"", b""))
    with pytest.raises(ChatTemplateError, match="ended its process with -11"):
        render_chat(CHATML, HELLO)
