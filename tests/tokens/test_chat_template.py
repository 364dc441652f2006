"""A chat template is filled in as transformers does it, to the character, and no further."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from jinja2.exceptions import SecurityError

from tests.small_tokenizers import byte_level, save
from tokmagic.core.prompt import Message, Prompt
from tokmagic.errors import PromptError
from tokmagic.tokens.chat_template import JinjaTemplate
from tokmagic.tokens.tokenizer import Tokenizer

NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
EACH = "{% for m in messages %}"
# One of each thing that templates of today's models do.
TEMPLATES = {
    "plain": EACH + "<{{ m.role }}>{{ m['content'] }}{{ eos_token }}\n{% endfor %}",
    "blocks on lines of their own": "{{ bos_token }}\n  {%- for m in messages %}\n  {% if m.role == 'user' %}\n"
    "    U: {{ m.content | trim }}\n  {% else %}\n  {{ m.role }}{{ m.content }}\n  {% endif %}\n  {%- endfor %}\n  end",
    "the generation prompt": EACH + "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}",
    "generation blocks": EACH + "{% if m.role == 'assistant' %}{% generation %}{% set x = 1 %}{{ m.content }}"
    "{{ loop.index }}{% endgeneration %}{% endif %}{{ x }}{% endfor %}",
    "a namespace": "{% set ns = namespace(found=false, n=0) %}" + EACH + "{% if m.role == 'system' %}"
    "{% set ns.found = true %}{% endif %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.found }} {{ ns.n }}",
    "JSON": EACH + "{{ m | tojson }}{{ m | tojson(indent=2) }}{{ m | tojson(ensure_ascii=true, sort_keys=true) }}"
    "{{ {'a': '<&>'} | tojson(separators=(',', ':')) }}{% endfor %}",
    "loop controls": EACH + "{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "a macro": "{% macro say(m, end='!') %}{{ m.content }}{{ end }}{% endmacro %}" + EACH + "{{ say(m) }}{% endfor %}",
    "dictionaries": "{% set d = dict(a=1, **{'b': 2}) %}{{ d }}{{ dict.fromkeys('ab') }}"
    "{% for k, v in d | dictsort %}{{ k }}{{ v }}{% endfor %}",
    "what is not there": "{{ tools is none }}{{ documents is none }}{{ nothing is defined }}[{{ pad_token }}]",
    "strings": EACH + "{{ m.content.split('\n')[-1].lstrip() }}{{ m.content[:3] ~ m.content | length }}"
    "{{ 'x' in m.content }}{{ m.content.startswith(' ') }}{{ '%s-%d' | format('a', 3) }}{% endfor %}",
    "reversed, sliced, counted": "{% for m in messages[::-1] %}{{ loop.revindex0 }}{{ m.role }}{% endfor %}"
    "{{ messages[-1].role }}{{ messages | length }}{{ messages | map(attribute='role') | join(',') }}",
    "refused roles": "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}ok",
    "the year": "{{ strftime_now('%Y') }}",
    "comments, raw, escapes": "{# gone #}{% raw %}{{ x }}{% endraw %}{{ '<|im_start|>' }}{{ \"it's\" }}",
}
CHATS = [
    [("user", "  Hi <b> & 'you'\n")],
    [("system", "Be brief."), ("user", "é 😀 e\u0301")],
    [("user", "a"), ("assistant", "b\r\n"), ("user", "")],
]


def filled(template: str, chat: list[tuple[str, str]]) -> str | tuple[str, str]:
    try:
        return JinjaTemplate(template, NAMED).render([Message(role, content) for role, content in chat])
    except TemplateError as error:
        return type(error).__name__, str(error)


def by_transformers(template: str, chat: list[tuple[str, str]]) -> str | tuple[str, str]:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": role, "content": content} for role, content in chat]
    try:
        (text,), _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **NAMED)
        return str(text)
    except TemplateError as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_filled_in_as_transformers_does_it(name: str) -> None:
    for chat in CHATS:
        assert filled(TEMPLATES[name], chat) == by_transformers(TEMPLATES[name], chat)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__class__=1) }}",
        "{{ namespace({'_x': 1}) }}",
        "{{ dict.__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__code__ }}",
        "{{ range(1000000000) | list }}",
    ],
)
def test_a_template_does_not_reach_into_python(template: str) -> None:
    try:
        text = JinjaTemplate(template, NAMED).render([Message("user", "Hi")])
    except (SecurityError, TemplateError, OverflowError):
        return
    assert text == "", "what is not allowed is undefined"


def settings(folder: Path, **config: Any) -> Path:
    save(folder, byte_level(), template=None)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | config), encoding="utf-8")
    return folder


FOLDERS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "in the settings": ({"chat_template": "A{{ messages[0].content }}"}, {}),
    "several in the settings": (
        {"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]},
        {},
    ),
    "a file of its own comes first": ({"chat_template": "A"}, {"chat_template.jinja": "F{{ messages[0].role }}\r\n"}),
    "special tokens by their names": (
        {
            "chat_template": "{{ bos_token }}{{ eos_token }}{{ image_token }}{{ tool_token }}",
            "bos_token": {"content": "<|role|>", "__type": "AddedToken", "special": True},
            "eos_token": "<|end|>",
            "image_token": "<|end|>",
            "extra_special_tokens": {"tool_token": "<|role|>"},
        },
        {},
    ),
    "special tokens in a file of their own": (
        {"chat_template": "{{ bos_token }}{{ eos_token }}", "eos_token": None},
        {"special_tokens_map.json": '{"bos_token": {"content": "<|role|>"}, "eos_token": "<|end|>"}'},
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_template_and_what_it_is_given_are_found_where_transformers_finds_them(name: str, tmp_path: Path) -> None:
    config, files = FOLDERS[name]
    settings(tmp_path, **config)
    if "special_tokens_map.json" in files:
        file = tmp_path / "tokenizer_config.json"
        kept = json.loads(file.read_text(encoding="utf-8"))
        kept.pop("added_tokens_decoder", None)
        file.write_text(json.dumps(kept), encoding="utf-8")
    for file_name, content in files.items():
        (tmp_path / file_name).write_bytes(content.encode())
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    chat = [{"role": "user", "content": "Hi"}]
    tokenizer = Tokenizer(tmp_path)
    prompt = Prompt((Message("user", "Hi"),))
    assert tokenizer.text(prompt) == theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert list(tokenizer.encode(prompt)) == theirs.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=False
    )


@pytest.mark.parametrize("template", ["{% for %}", "{{ messages[5].content.x }}", "{{ raise_exception('why') }}"])
def test_what_a_template_refuses_is_told_in_one_error(template: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer(settings(tmp_path, chat_template=template))
    with pytest.raises(PromptError, match=r"^the model's chat template refuses these messages: "):
        tokenizer.encode(Prompt((Message("user", "Hi"),)))
