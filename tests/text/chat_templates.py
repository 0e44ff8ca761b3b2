"""Chat templates in the styles of known families, written for these tests, and conversations for them."""

from typing import Any

LLAMA_3 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' ~ system ~ '<|eot_id|>' }}
{%- for message in messages %}
    {%- if not message.role in ['user', 'assistant', 'tool'] %}
        {{- raise_exception('Unknown role ' ~ message.role) }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if tools is not none %}{{ tools | tojson(indent=2) }}{% endif %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

CHATML = """{% for message in messages -%}
    {%- if loop.first and message['role'] != 'system' -%}
        {{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
    {%- endif -%}
    {{ '<|im_start|>' + message['role'] + '\\n' }}
    {%- generation -%}{{ message['content'] }}{%- endgeneration -%}
    {{ '<|im_end|>' + '\\n' }}
    {%- if loop.last and add_generation_prompt -%}
        {{ '<|im_start|>assistant\\n' }}
    {%- endif -%}
{%- endfor %}"""

MISTRAL = """{{ bos_token }}{% for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- if message['role'] == 'user' %}
{{- ' [INST] ' + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}
{{- ' ' + message['content'] + eos_token }}
{%- else %}{% continue %}{% endif %}
{%- endfor %}"""

GEMMA = """{{ bos_token }}{% set ns = namespace(turns=0) %}
{% macro turn(role, text) -%}
<start_of_turn>{{ role }}
{{ text | trim }}<end_of_turn>
{% endmacro %}
{% for message in messages %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{% set ns.turns = ns.turns + 1 %}
{{ turn(role, message['content']) }}{% endfor %}
{% if add_generation_prompt %}<start_of_turn>model
{% endif %}{# {{ ns.turns }} #}"""

TEMPLATES = {"llama 3": LLAMA_3, "chatml": CHATML, "mistral": MISTRAL, "gemma": GEMMA}

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hello!"}],
    [
        {"role": "user", "content": "  What is <b>2 & 3</b>? {{ 1 }} \n"},
        {"role": "assistant", "content": '"5", 世界 😀'},
        {"role": "user", "content": ""},
    ],
    [{"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": "Why?"}],
]
