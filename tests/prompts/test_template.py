"""A cell's text becomes a prompt: what is special in it, what is not, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.errors import PromptError, UsageError
from tokmagic.prompts.options import check_prompt, check_sampling
from tokmagic.prompts.template import build, parse, read, render, sha256

SAMPLING = Sampling()
ROLES = ("system", "user", "assistant")


def pairs(body: str, variables: dict[str, Any] | None = None, *, literal: bool = False) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in parse(body, variables, literal=literal)]


def fails(body: str, **variables: Any) -> str:
    """The error's one line."""
    with pytest.raises(PromptError) as raised:
        parse(body, variables)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def ask(*contents: str) -> list[Message]:
    return [Message("user", content) for content in contents]


# Templates


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("--- sytem", "system"),
        ("--- System", "system"),
        ("---user", "user"),
        ("--- USER\r", "user"),
        ("---\tassistent ", "assistant"),
        ("--- asistant", "assistant"),
    ],
)
def test_a_role_line_with_a_slip_is_told(line: str, meant: str) -> None:
    body = f"--- user\nHi\n{line}\nthere\n"
    with pytest.raises(PromptError) as caught:
        parse(body)
    told = f"line 3 of the prompt is {line.strip()!r}, which begins no message; write '--- {meant}', or use --literal"
    assert str(caught.value) == f"{told} if it is meant literally"
    assert parse(body, literal=True)[0].content == body.removesuffix("\n")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("Hi {{ who }}", "Hi Ada"),
        ("{{ numbers[1] }} {{ d.k }} {{ d['k'] }} {{ none }}", "2 v v None"),
        ("{% for n in numbers %}{{ n }},{% endfor %}", "1,2,"),
        ("{{ who|upper }}{{ gone|default('?') }}{% if gone is defined %}x{% endif %}", "ADA?"),
        ("{% raw %}{{ who }}{% endraw %}", "{{ who }}"),
        ("<b>{{ '<&>' }}</b>", "<b><&></b>"),
    ],
)
def test_a_template_is_filled_in(body: str, text: str) -> None:
    variables = {"who": "Ada", "numbers": [1, 2], "d": {"k": "v"}, "none": None}
    assert render(body, variables) == text


@pytest.mark.parametrize(
    "text",
    ["{x}", "$x $$ ${x}", "# one\n## two", "{# no comment #}", "}} %}", "{ { x } }", '{"a": {"b": 1}}', "## {# a\n#}"],
)
def test_single_braces_dollars_and_hashes_mean_themselves(text: str) -> None:
    assert render(text, {"x": "FILLED"}) == text


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab {}%#$\\-\r\n\t0é\u2028")))
@example("a{\rb\n")
def test_text_without_double_braces_comes_out_as_it_went_in(text: str) -> None:
    safe = re.sub(r"\{[{%]", "[", text)
    while "{{" in safe or "{%" in safe:
        safe = re.sub(r"\{[{%]", "[", safe)
    assert render(safe, {}) == safe


@settings(deadline=None)
@given(st.text())
def test_a_value_is_never_a_template(value: str) -> None:
    assert render("a{{ x }}b", {"x": value}) == f"a{value}b"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ends_of_line_are_kept(end: str) -> None:
    assert render(f"{end}a{end}{end}{{{{ x }}}}{end}", {"x": f"1{end}2\n"}) == f"{end}a{end}{end}1{end}2\n{end}"
    assert render(f"{{% if x %}}{end}a{end}{{% endif %}}", {"x": 1}) == f"{end}a{end}"


def test_ends_of_line_may_differ() -> None:
    assert render("a\r\nb\nc\rd{{ x }}\r\n", {"x": "\r"}) == "a\r\nb\nc\rd\r\r\n"


def test_a_tag_may_be_broken_over_lines_that_end_with_crlf() -> None:
    assert render("{% if x and\r\n x -%}\r\n  yes\r\n{%- endif %}\r\n", {"x": 1}) == "yes\r\n"


@pytest.mark.parametrize(
    ("body", "name"), [("{{ nobody }}", "nobody"), ("{{ d.there }}", "there"), ("{{ nobody.x }}", "nobody")]
)
def test_an_undefined_name_is_named(body: str, name: str) -> None:
    says = fails(f"Hi {body}", d={})
    assert name in says
    assert "--literal" in says


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("{{ 1 + }}", 1),
        ("a\n\nb {% if %}", 3),
        ("--- system\nBe kind.\n--- user\n{{ 1 + }}\n", 4),
        ("--- system\r\nBe kind.\r\n--- user\r\n{{ 1 + }}\r\n", 4),
        ("a\n{% for x in y %}\n", 2),
    ],
)
def test_a_syntax_error_names_the_line_and_points_at_literal(body: str, line: int) -> None:
    says = fails(body)
    assert says.startswith(f"line {line} of the prompt: ")
    assert "--literal" in says


class Awkward:
    def __str__(self) -> str:
        raise ValueError("two\nlines")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("{{ text.__class__.__mro__ }}", "unsafe"),
        ("{{ items.append(1) }}", "unsafe"),
        ("{{ (items|attr('clear'))() }}", "unsafe"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{% include 'secret.txt' %}", "no loader"),
        ("{{ awkward }}", "ValueError: two lines"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_what_a_template_may_not_do_is_one_line(body: str, says: str) -> None:
    items = [0]
    assert says in fails(body, text="x", items=items, awkward=Awkward())
    assert items == [0]


# Role lines


def test_role_lines_start_messages() -> None:
    body = "--- system\nBe kind.\n\n--- user\nHi\n--- assistant\nHello\n---\tuser  \nMore"
    assert pairs(body) == [("system", "Be kind.\n"), ("user", "Hi"), ("assistant", "Hello"), ("user", "More")]


def test_text_before_the_first_role_line_is_the_users() -> None:
    assert pairs("\n\n--- system\nS") == [("system", "S")]
    assert pairs("First\n--- assistant\nA\n") == [("user", "First"), ("assistant", "A")]


def test_role_lines_may_end_with_crlf() -> None:
    assert pairs("--- system\r\nA\r\nB\r\n--- user\r\nC\r\n") == [("system", "A\r\nB"), ("user", "C")]


@pytest.mark.parametrize(
    "line",
    [" --- user", "--- robot", "--- user:", "--- user x", "---- user", "-- user", "---", "--- users", " --- sytem"],
)
def test_other_lines_are_text(line: str) -> None:
    assert pairs(f"a\n{line}\nb") == [("user", f"a\n{line}\nb")]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["--- system\n", "--- user\r\n", "--- assistant", "x", "\n", "\r\n"])).map("".join))
def test_a_role_line_in_a_value_is_text(value: str) -> None:
    message = f"Summarise:\n{value}|"
    assert pairs("--- user\nSummarise:\n{{ value }}|\n", {"value": value}) == [("user", message)]


def test_a_loop_makes_messages() -> None:
    body = "--- system\nBe brief.\n{% for q, a in shots %}\n--- user\n{{ q }}\n--- assistant\n{{ a }}\n{%- endfor %}\n"
    found = pairs(body + "--- user\nLast\n", {"shots": [("1?", "1."), ("2?", "2.")]})
    assert [role for role, _ in found] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [content for _, content in found] == ["Be brief.\n", "1?", "1.", "2?", "2.", "Last"]


def test_role_lines_inside_a_filter_block() -> None:
    assert pairs("{% filter upper %}a\n--- assistant\nb\n{% endfilter %}") == [("user", "A"), ("assistant", "B")]
    assert "keep these lines out of its block" in fails("{% filter urlencode %}\n--- user\nb\n{% endfilter %}")


def test_literal_means_every_character() -> None:
    body = "{{ x }}\n--- system\n{% if %} {# $y # {\r\n"
    assert pairs(body, {"x": 1}, literal=True) == [("user", body.removesuffix("\r\n"))]
    assert pairs("a\n\n", literal=True) == [("user", "a\n")]


# Putting a prompt together


@pytest.mark.parametrize("body", ["", " \n\t\n", "--- system\nBe kind.", "--- user\n\n--- assistant\n ", "{{ '' }}"])
def test_an_empty_prompt_is_refused(body: str) -> None:
    with pytest.raises(
        PromptError, match=r"^the prompt is empty; write what to ask, in a cell below the %%generate or %%tokens line$"
    ):
        build(parse(body), SAMPLING)
    with pytest.raises(PromptError, match="the prompt is empty"):
        build(parse(body), SAMPLING, history=ask("Earlier"))


def test_system_history_and_messages_in_this_order() -> None:
    history = [Message("user", "1"), Message("assistant", "2")]
    made = build(ask("3"), Sampling(max_tokens=5), system="S", history=history)
    assert made == Prompt((Message("system", "S"), *history, Message("user", "3")), Sampling(max_tokens=5))
    assert build(parse("--- system\nS\n--- user\n3"), SAMPLING).messages[0] == Message("system", "S")


@pytest.mark.parametrize(
    ("messages", "more", "says"),
    [
        (parse("--- system\nA\n--- user\nB"), {"system": "C"}, "given twice"),
        (ask("B"), {"system": "C", "history": [Message("system", "A")]}, "--reset"),
        (parse("--- system\nA\n--- user\nB"), {"history": [Message("system", "A")]}, "--reset"),
        (ask("B"), {"completion": True, "system": "A"}, "--completion"),
        (ask("B"), {"completion": True, "history": ask("A")}, "--completion"),
        (parse("--- assistant\nB"), {"completion": True}, "--completion"),
        (ask("A", "B"), {"completion": True}, "--completion"),
    ],
)
def test_what_contradicts_itself_is_refused(messages: list[Message], more: dict[str, Any], says: str) -> None:
    with pytest.raises(PromptError, match=says):
        build(messages, SAMPLING, **more)


def test_a_completion_is_one_plain_text() -> None:
    made = build(parse("Once upon a time\n"), SAMPLING, completion=True)
    assert (made.messages, made.completion) == ((Message("user", "Once upon a time"),), True)


# Sampling

NUMBERS: dict[str, tuple[str, list[Any], list[Any]]] = {
    "--max-tokens": ("max_tokens", [1, 256, 10**9], [0, -1, 10**9 + 1, 10**400, 1.5, None]),
    "--temperature": ("temperature", [0, 0.0, 0.7, 5], [-0.1, -1, 1e10, 10**400]),
    "--top-p": ("top_p", [0.1, 1, 1.0], [0, -0.5, 1.01]),
    "--top-k": ("top_k", [1, 50], [0, -1, 10**400, 2.0]),
    "--min-p": ("min_p", [0, 0.05, 1], [-0.1, 1.1]),
    "--repetition-penalty": ("repetition_penalty", [0.5, 1, 1.2], [0, -1, 10**5000]),
    "--seed": ("seed", [0, 1, 2**63 - 1], [-1, 2**63, 1.0]),
    "-n": ("n", [1, 128], [0, -3, 129, 1.5, None]),
}
NEVER = [float("nan"), float("inf"), float("-inf"), True, False, "1", "", [1], 1j]


@pytest.mark.parametrize("option", NUMBERS)
def test_every_number_has_its_range(option: str) -> None:
    field, good, bad = NUMBERS[option]
    for value in good:
        sampling = replace(SAMPLING, **{field: value})
        assert check_sampling(sampling) is sampling
    for value in [*bad, *NEVER]:
        with pytest.raises(UsageError) as raised:
            check_sampling(replace(SAMPLING, **{field: value}))
        assert str(raised.value).startswith(f"{option} is ")
        assert re.search(r"; (it must be (at least|above) .* and at most |give a (whole )?number$)", str(raised.value))
        assert len(str(raised.value)) < 120


@pytest.mark.parametrize("option", [option for option in NUMBERS if option not in ("--max-tokens", "-n")])
def test_a_number_that_is_not_given_is_the_models(option: str) -> None:
    sampling = replace(SAMPLING, **{NUMBERS[option][0]: None})
    assert check_sampling(sampling) is sampling


def test_the_range_is_told() -> None:
    with pytest.raises(UsageError, match=r"^--top-p is 1\.5; it must be above 0 and at most 1$"):
        check_sampling(Sampling(top_p=1.5))
    with pytest.raises(UsageError, match=r"^--max-tokens is nan; give a whole number$"):
        check_sampling(replace(SAMPLING, max_tokens=float("nan")))
    with pytest.raises(UsageError, match=r"^--max-tokens is 1\.00e\+400; .* at most 1,000,000,000$"):
        check_sampling(Sampling(max_tokens=10**400))


@pytest.mark.parametrize("stop", [("",), ("a", ""), (5,), (None,), (b"a",)])
def test_stop_strings_are_texts(stop: Any) -> None:
    with pytest.raises(UsageError, match=r"^--stop is "):
        check_sampling(Sampling(stop=stop))
    assert check_sampling(Sampling(stop=("a", "\n"))).stop == ("a", "\n")


SCHEMA = Sampling(max_tokens=9, json_schema='{"type": "object"}')


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, None),
        ({"ignore_eos": True}, None),
        ({"min_tokens": 256}, None),
        ({"min_tokens": 257}, "min_tokens is 257; give a whole number from 0 to max_tokens, 256"),
        ({"min_tokens": -1}, "min_tokens is -1; give a whole number from 0 to max_tokens, 256"),
        ({"min_tokens": None}, "min_tokens is None; give a whole number from 0 to max_tokens, 256"),
        ({"min_tokens": True}, "min_tokens is True; give a whole number from 0 to max_tokens, 256"),
        ({"sampling": SCHEMA}, None),
        ({"sampling": SCHEMA, "min_tokens": 3}, "ends where it does; leave out min_tokens or the schema"),
        ({"sampling": SCHEMA, "ignore_eos": True}, "ends where it does; leave out ignore_eos or the schema"),
        ({"sampling": Sampling(top_p=2)}, "--top-p is 2; it must be above 0 and at most 1"),
    ],
    ids=str,
)
def test_a_prompt_asks_for_what_can_be_answered(more: dict[str, Any], says: str | None) -> None:
    prompt = replace(Prompt(tuple(ask("Hi"))), **more)
    if says is None:
        check_prompt(prompt)
        return
    with pytest.raises(UsageError, match=re.escape(says) + "$"):
        check_prompt(prompt)


# The digest


def test_the_digest_is_the_same_everywhere() -> None:
    prompt = Prompt((Message("system", "Sé kind"), Message("user", "Hi\n")))
    # echo -n '{"completion":false,"messages":[["system","Sé kind"],["user","Hi\n"]]}' | sha256sum
    assert sha256(prompt) == "e480aef8bb3b835164c51d8a6855feae6be72e0a0dbca91f55b9522a22f29b60"
    assert len(sha256(Prompt(tuple(ask("\ud800"))))) == 64


def test_the_digest_is_the_questions_alone() -> None:
    one = Prompt(tuple(ask("Hi")))
    assert sha256(one) == sha256(replace(one, sampling=Sampling(max_tokens=9, seed=1)))
    others = [replace(one, completion=True), Prompt(tuple(ask("Hi "))), Prompt((Message("system", "Hi"),))]
    assert len({sha256(prompt) for prompt in [one, *others]}) == 4
    assert sha256(Prompt(tuple(ask("a", "b")))) != sha256(Prompt(tuple(ask("a\nb"))))


def test_a_body_that_is_read_once_makes_the_same_messages() -> None:
    body = "--- system\r\nBe {{ how }}.\r\n--- user\r\n{% for it in asked %}{{ it }}? {% endfor %}"
    made = read(body)
    for variables in ({"how": "brief", "asked": [1, 2]}, {"how": "--- user\nkind", "asked": []}):
        assert made(variables) == parse(body, variables)
    with pytest.raises(PromptError, match="'how' is undefined"):
        made({"asked": []})
    assert read(body) is made
    with pytest.raises(PromptError, match="line 2 of the prompt"):
        read("one\n{{ two")
