"""Chat templates in the styles that published directories carry, and conversations to render with them."""

from typing import Any

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

INSTRUCT = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user and assistant') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + ((system + '\\n\\n') if loop.first and system is defined else '') }}
        {{- (message['content'] | trim) + ' [/INST]' }}
    {%- else %}
        {{- ' ' + (message['content'] | trim) + eos_token }}
    {%- endif %}
{%- endfor %}
"""

PARTS = """{% for message in messages %}
    {% if message['role'] != 'system' %}
        {{- message['role'].upper() + ': ' }}
    {%- endif %}
    {# pictures first #}
    {% for part in message['content'] | selectattr('type', 'equalto', 'image') %}
        {{- '<image>\\n' }}
    {%- endfor %}
    {% if message['role'] != 'assistant' %}
        {%- for part in message['content'] | selectattr('type', 'equalto', 'text') %}
            {{- part['text'] + ' ' }}
        {%- endfor %}
    {% else %}
        {%- for part in message['content'] | selectattr('type', 'equalto', 'text') %}
            {% generation %}
                {{- part['text'] + ' ' }}
            {% endgeneration %}
        {%- endfor %}
    {% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'ASSISTANT:' }}
{%- endif %}
"""

BOTH = """{%- macro shown(content) -%}
    {%- if content is string -%}{{ content }}
    {%- else -%}
        {%- for part in content -%}
            {%- if part.type == 'image' or 'image_url' in part -%}<image>
            {%- elif 'text' in part -%}{{ part.text }}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(seen=0) -%}
{%- for message in messages %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
    {%- set ns.seen = ns.seen + 1 -%}
    <|{{ message.role }}|>
{{ shown(message.content) }}<|im_end|>
{% endfor %}
{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- if add_generation_prompt %}<|assistant|>
{% endif -%}
"""

TURNS = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)

TAGGED = """{%- for message in messages %}
{%- if message.role == "assistant" -%}
<|assistant|>
{% generation %}{{ message.content + eos_token }}{% endgeneration %}

{% else -%}
<|{{ message.role }}|>
{{ message.content }}
{% endif -%}
{%- endfor -%}
{% if add_generation_prompt %}<|assistant|>
{% endif %}"""

TEXT = {"chatml": CHATML, "instruct": INSTRUCT, "turns": TURNS, "tagged": TAGGED, "both": BOTH}
IN_PARTS = {"parts": PARTS, "both": BOTH}
SPECIAL = {"bos_token": "<s>", "eos_token": "<|im_end|>"}

TALK: list[dict[str, Any]] = [
    {"role": "user", "content": 'What is <this> & "that"?'},
    {"role": "assistant", "content": "It's a café, 日本."},
    {"role": "user", "content": "  And then? "},
    {"role": "assistant", "content": "Nothing."},
]


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


PICTURES: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image"}, text("What colour is it?"), {"type": "image"}]},
    {"role": "assistant", "content": [text("Red.")]},
    {"role": "user", "content": [text("Sure?")]},
    {"role": "assistant", "content": [text("Quite sure.")]},
]
