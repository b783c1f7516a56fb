"""Chat templates for models that are put together here, in the dialects of the published ones.

Each tags what the model is to say. `image_token` and `eos_token` are given by the tokenizer (`named`).
"""

from collections.abc import Mapping

from jvlm.core.build import lookup
from jvlm.data.chat import ChatTemplate

_PARTS = (
    "{%- macro shown(content) -%}{%- for part in content -%}"
    "{%- if part.type == 'image' -%}{{ image_token }}{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endmacro -%}"
)
_PICTURES_FIRST = (
    "{%- macro shown(content) -%}"
    "{%- for part in content if part.type == 'image' -%}{{ image_token + '\\n' }}{%- endfor -%}"
    "{%- for part in content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}{%- endmacro -%}"
)
_ANSWER = "{% generation %}{{ shown(message.content) + eos_token }}{% endgeneration %}"
_SHORT = (
    _PARTS + "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}{{ ' ' }}" + _ANSWER + "{%- else -%}{{ shown(message.content) }}"
    "{%- endif -%}{%- endfor -%}"
)

TEMPLATES: dict[str, str] = {
    # LLaVA's first stage (arXiv:2304.08485, section 4.2) and captioning: the picture, then the text.
    "plain": _PARTS + "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}" + _ANSWER + "{%- else -%}{{ shown(message.content) }}{%- endif -%}"
    "{%- endfor -%}",
    # BLIP-2's prompt for questions (arXiv:2301.12597, section 4.2).
    "question_answer": _PARTS + "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}{{ ' ' }}" + _ANSWER + "{%- else -%}"
    "{%- for part in message.content if part.type == 'image' -%}{{ image_token }}{%- endfor -%}"
    "{{ 'Question: ' }}{%- for part in message.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}"
    "{{ ' Answer:' }}{%- endif -%}{%- endfor -%}",
    # The same without the words around them: what a short run learns from.
    "short": _SHORT,
    # And behind the start token, where a language model expects nothing but that.
    "short_started": "{{- bos_token -}}" + _SHORT,
    # LLaVA-1.5's conversations (arXiv:2310.03744), an end token after every answer.
    "vicuna": _PICTURES_FIRST + "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{{ shown(message.content) + ' ' }}"
    "{%- elif message.role == 'user' -%}{{ 'USER: ' + shown(message.content) + ' ' }}"
    "{%- else -%}{{ 'ASSISTANT: ' }}" + _ANSWER + "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}",
    # The turns of Qwen2, SmolLM2 and others, pictures where they stand.
    "chatml": _PARTS + "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.role == 'assistant' -%}{% generation %}{{ shown(message.content) + '<|im_end|>' }}"
    "{% endgeneration %}{%- else -%}{{ shown(message.content) + '<|im_end|>' }}{%- endif -%}{{ '\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}",
    # Interleaved documents (arXiv:2204.14198, section 3.1): every text ends its chunk, and all text is learnt.
    "flamingo": "{%- for message in messages -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ image_token }}{%- else -%}"
    "{%- if message.role == 'assistant' -%}{% generation %}{{ part.text + eos_token }}{% endgeneration %}"
    "{%- else -%}{{ part.text }}{%- endif -%}{%- endif -%}{%- endfor -%}{%- endfor -%}",
}
"""Jinja text by name."""
BARE = (
    "{%- for message in messages -%}"
    "{%- for part in message.content if part.type == 'image' -%}{{ image_token }}{%- endfor -%}{{ start }}"
    "{%- for part in message.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}{{ end }}{%- endfor -%}"
)
"""What the processors of BLIP-2, InstructBLIP and PaliGemma make of a picture and a text, without a template."""


def with_template(files: Mapping[str, bytes], name: str, image_token: str = "<image>") -> dict[str, bytes]:
    """A tokenizer's `files` with a template of `TEMPLATES` in place of their own, which names the image token."""
    source = lookup(TEMPLATES, name, "chat template")
    kept = {file: data for file, data in files.items() if not file.startswith("chat_template")}
    told = "{%- set image_token = " + repr(image_token) + " -%}"
    return {**kept, "chat_template.jinja": (told + source).encode()}


def named(name: str, eos_token: str, image_token: str = "<image>", **special_tokens: str) -> ChatTemplate:
    """A template of `TEMPLATES` with a tokenizer's tokens. ConfigError names the nearest when there is none."""
    tokens: Mapping[str, str] = {**special_tokens, "eos_token": eos_token, "image_token": image_token}
    return ChatTemplate(lookup(TEMPLATES, name, "chat template"), tokens)
