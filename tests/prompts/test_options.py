"""Option lines: what they are split into, what is filled in, and one line for what is written wrong."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

from tests.documented import PARSERS, options_of
from tokmagic.core.money import Rates
from tokmagic.engines.base import ModelSpec
from tokmagic.errors import PriceError, UsageError
from tokmagic.magics import model, price
from tokmagic.notebooks.check import limits
from tokmagic.prices.budgets import of_run
from tokmagic.prompts.options import generate_parser
from tokmagic.prompts.parser import HelpWanted, integer, split
from tokmagic.runs import request


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """IPython's own filling in, over a few variables."""
    made = InteractiveShell()
    made.user_ns |= {"name": "a b", "quoted": 'it\'s "so" --yes', "d": {"x y": "v"}, "n": 4, "dashes": "---"}
    yield made
    made.history_manager.end_session()


def words(line: str, shell: InteractiveShell | None = None) -> list[str]:
    return split(line, shell.var_expand if shell else lambda word: word)


def parsed(line: str, shell: InteractiveShell | None = None) -> Namespace:
    return generate_parser().parse_args(words(line, shell))


def fails(line: str, parser: str = "generate") -> str:
    with pytest.raises(UsageError) as raised:
        PARSERS[parser]().parse_args(words(line))
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Splitting and filling in


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        ("--system 'Be kind' --tag  x", ["--system", "Be kind", "--tag", "x"]),
        ("--system \"it's\" '\"'", ["--system", "it's", '"']),
        ("--stop '' --tag a'b c'd", ["--stop", "", "--tag", "ab cd"]),
        (r"--stop \n '\n'", ["--stop", "n", r"\n"]),
        ("--tag #1 --system '# x'", ["--tag", "#1", "--system", "# x"]),
        ('--system \'as {"a": 1}\' {"b c"}', ["--system", 'as {"a": 1}', '{"b c"}']),
        ("{} { } {0} {1}", ["{}", "{ }", "{0}", "{1}"]),
    ],
)
def test_quotes_group_words_and_are_stripped(line: str, expected: list[str]) -> None:
    assert words(line) == expected


@settings(deadline=None)
@given(st.lists(st.text(alphabet=st.characters(exclude_characters="{}", exclude_categories=["Cs"]))))
def test_what_a_shell_would_quote_is_read_back(given_words: list[str]) -> None:
    assert words(shlex.join(given_words)) == given_words


@pytest.mark.parametrize("line", ["--system 'open", '--system "open', "--tag it's", "--tag x\\"])
def test_an_unclosed_quotation_says_so(line: str) -> None:
    assert "the option line cannot be read: No" in fails(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("$name", ["a b"]),
        ("{name}", ["a b"]),
        ("x$name-{n}y", ["xa b-4y"]),
        ("$quoted '$quoted'", ['it\'s "so" --yes'] * 2),
        ('{d["x y"]} "{d["x y"]}"', ["v", "v"]),
        ("{n + 1} '{n + 1}' {' '.join('ab')}", ["5", "5", "a b"]),
        ("{'\\n'}", ["\n"]),
        ("$nobody {nobody} {}", ["$nobody", "{nobody}", "{}"]),
        ("{{name}} $$name", ["{name}", "$name"]),
    ],
)
def test_variables_are_filled_in_after_splitting(line: str, expected: list[str], shell: InteractiveShell) -> None:
    assert words(line, shell) == expected


# The options of %%generate

OPTIONS: list[tuple[str, str, Any]] = [
    ("-m smollm2", "model", "smollm2"),
    ("--model smollm2", "model", "smollm2"),
    ("--into out", "into", "out"),
    ("--system 'Be kind'", "system", "Be kind"),
    ("--chat c", "chat", "c"),
    ("--reset", "reset", True),
    ("--max-tokens 60", "max_tokens", 60),
    ("--max-tokens 1e3", "max_tokens", 1000),
    ("--max-tokens 1_000", "max_tokens", 1000),
    ("--max-tokens=-5", "max_tokens", -5),
    ("--max-tokens -5", "max_tokens", -5),
    ("--temperature 0.7", "temperature", 0.7),
    ("--temperature -1e3", "temperature", -1000.0),
    ("--top-p .9", "top_p", 0.9),
    ("--top-k 40", "top_k", 40),
    ("--min-p 0.05", "min_p", 0.05),
    ("--repetition-penalty 1.1", "repetition_penalty", 1.1),
    ("--stop a --stop 'b c'", "stop", ["a", "b c"]),
    ("--stop ---", "stop", ["---"]),
    ("--stop=--- --stop -", "stop", ["---", "-"]),
    ("--stop '- x'", "stop", ["- x"]),
    (r"""--stop '\n' --stop "\n\nUser:" --stop='a\tb\r\n'""", "stop", ["\n", "\n\nUser:", "a\tb\r\n"]),
    (r'''--stop "\\n" --stop "\\\\n"''', "stop", ["\n", r"\n"]),  # in double quotes a shell takes one of two
    (r"--stop '\\n' --stop '\d\' --stop '\\\n'", "stop", [r"\n", "\\d\\", "\\\n"]),
    ("--seed 7", "seed", 7),
    ("-n 3", "n", 3),
    ("-n -1", "n", -1),
    ("--format code", "format", "code"),
    ("--logprobs", "logprobs", True),
    ("--json-schema schema", "json_schema", "schema"),
    ("--literal", "literal", True),
    ("--completion", "completion", True),
    ("--no-stream", "no_stream", True),
    ("--cache", "cache", True),
    ("--no-cache", "no_cache", True),
    ("--refresh", "refresh", True),
    ("--dry-run", "dry_run", True),
    ("--budget 0.10", "budget", "0.10"),
    ("--yes", "yes", True),
    ("--tag a --tag b", "tag", ["a", "b"]),
    ("--quiet", "quiet", True),
]


@pytest.mark.parametrize(("line", "field", "value"), OPTIONS, ids=[line for line, _, _ in OPTIONS])
def test_every_option_parses_and_changes_nothing_else(line: str, field: str, value: object) -> None:
    default = vars(parsed(""))
    assert default[field] != value
    assert vars(parsed(line)) == {**default, field: value}


def test_the_list_above_is_all_of_them() -> None:
    assert {field for _, field, _ in OPTIONS} == set(vars(parsed("")))


def test_what_is_not_given_is_left_to_the_model() -> None:
    default = parsed("")
    assert (default.max_tokens, default.n, default.format) == (256, 1, "markdown")
    asked = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "model", "system", "budget")
    assert {getattr(default, name) for name in asked} == {None}


def test_a_value_may_come_from_a_variable(shell: InteractiveShell) -> None:
    given = parsed("--system $quoted --max-tokens {n * 2} --stop $dashes --tag {d['x y']}", shell)
    assert (given.system, given.max_tokens, given.stop, given.tag) == ('it\'s "so" --yes', 8, ["---"], ["v"])
    assert not given.yes


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--temprature 1", "unknown option '--temprature' (did you mean --temperature?)"),
        ("--max-tokns=3", "(did you mean --max-tokens?)"),
        ("--max 3", "unknown option '--max'"),
        ("--qqqqqqqqqq", "unknown option '--qqqqqqqqqq'; see"),
        ("hello", "unknown word 'hello'"),
        ("--max-tokens", "--max-tokens: expected one argument"),
        ("--max-tokens --yes", "--max-tokens: expected one argument"),
        ("--max-tokens 1.5", "invalid integer value: '1.5'"),
        ("--max-tokens 1e400", "invalid integer value: '1e400'"),
        ("--max-tokens nan", "invalid integer value: 'nan'"),
        ("--max-tokens $nobody", "invalid integer value: '$nobody'"),
        ("--temperature warm", "invalid float value: 'warm'"),
        ("--format html", "--format 'html' is unknown; use markdown, text, code, json"),
        ("--format txt", "--format 'txt' is unknown (did you mean text?)"),
        ("--reset=yes", "--reset"),
        ("-m", "-m/--model: expected one argument"),
    ],
)
def test_what_is_written_wrong_gets_one_line(line: str, says: str) -> None:
    message = fails(line)
    assert says in message
    assert message.endswith("; see %%generate --help")


@pytest.mark.parametrize("line", ["-h", "--help", "--help --temprature 1", "--temprature 1 --help", "--tag x -h y"])
def test_help_wins_over_what_is_wrong_beside_it(line: str) -> None:
    with pytest.raises(HelpWanted) as wanted:
        parsed(line)
    assert wanted.value.text == generate_parser().format_help()
    assert "runs nothing" in str(wanted.value)


@pytest.mark.parametrize("name", PARSERS)
def test_every_magic_has_help_that_names_each_option(name: str) -> None:
    parser = PARSERS[name]()
    shown = parser.format_help()
    cell = name in ("generate", "compare")
    assert shown.startswith(f"usage: {'%%' if cell else '%'}{name} ")
    for option in options_of(parser):
        assert option in shown
    assert {"-h", "--help"} <= set(options_of(parser))
    assert "unknown option '--hepl' (did you mean --help?)" in fails("--hepl", name)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-3", -3),
        ("1_000", 1000),
        ("1e3", 1000),
        ("2.0", 2),
        (" 7 ", 7),
        ("1E2", 100),
        ("9" * 30, 10**30 - 1),
    ],
)
def test_integers(text: str, value: int) -> None:
    assert integer(text) == value
    assert isinstance(integer(text), int)


@pytest.mark.parametrize("text", ["", "x", "1.5", "1e-3", "nan", "inf", "-inf", "1e400", "0x10", "1__0", "1 000"])
def test_what_is_no_integer(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        integer(text)


@pytest.mark.parametrize(
    ("line", "options", "rest"),
    [
        ("", "", ""),
        ("doc", "", "doc"),
        ("\"a  b\" + 'c'", "", "\"a  b\" + 'c'"),
        ("-m a,b doc -m", "-m a,b", "doc -m"),
        ("--model='a b' --literal  f(x, -1)", "--model='a b' --literal", "f(x, -1)"),
        ("--system 'Be kind' doc", "--system 'Be kind'", "doc"),
        ("--system=Be doc", "--system=Be", "doc"),
        ("--nonsense doc", "--nonsense", "doc"),
        ("-h", "-h", ""),
        ("-1", "", "-1"),
        ("-m", "-m", ""),
    ],
)
def test_options_in_front_of_an_expression(line: str, options: str, rest: str) -> None:
    assert PARSERS["tokens"]().leading(line) == (options, rest)


def test_options_may_stand_between_words() -> None:
    model_ = model.parser().parse_args(words("add --quant nf4 big --device cuda:1 org/model"))
    assert (model_.action, model_.name, model_.spec, model_.quant) == ("add", "big", "org/model", "nf4")
    freeze = PARSERS["tokmagic"]().parse_args(words("freeze --texts out.json"))
    assert (freeze.action, freeze.file, freeze.texts) == ("freeze", "out.json", True)
    assert PARSERS["tokens"]().parse_args(words("-m a --show 0 -m b")).model == ["a", "b"]
    budget = PARSERS["budget"]().parse_args(words("day --strict -5 --warn .5"))
    assert (budget.scope, budget.usd, budget.strict, budget.warn) == ("day", "-5", True, 0.5)
    assert "-m/--model: expected one argument" in fails("hello -m")


# %model


def test_a_spec_with_every_option() -> None:
    line = (
        "add big org/model@v1 --quant nf4 --dtype bf16 --device cuda:1 --compile off --revision v2 "
        "--api-base http://h --api-key-name KEY --server vllm --tokenizer ./tok --trust-remote-code --allow-pickle"
    )
    given = model.parser().parse_args(words(line))
    assert (given.action, given.name) == ("add", "big")
    assert request.spec(given, given.spec) == ModelSpec(
        "org/model@v1", "v2", "nf4", "bf16", "cuda:1", "off", "http://h", "KEY", "vllm", "./tok", True, True
    )
    plain = model.parser().parse_args(["add", "small", "/models/x", "--quant", "none"])
    assert request.spec(plain, plain.spec) == ModelSpec("/models/x")


def test_quantisations_are_the_known_ones() -> None:
    assert "--quant 'nf5' is unknown (did you mean nf4?); use nf4, int8, int4, none" in fails(
        "add x y --quant nf5", "model"
    )


# %price


def rates(line: str, before: Rates | None = None) -> Rates:
    return request.rates(price.parser().parse_args(words(f"m {line}")), before or Rates(), "%price")


def test_rates_are_usd_per_million_tokens() -> None:
    made = rates("--input 0.15 --output $0.60 --cached 0.075 --cache-write 0.19")
    assert (made.input, made.output) == (Decimal("0.15"), Decimal("0.6"))
    assert (made.cached, made.cache_write) == (Decimal("0.075"), Decimal("0.19"))
    assert (made.device_hour, made.source) == (None, "%price")


def test_money_is_read_alike_everywhere() -> None:
    """Rates, budgets and limits: with a sign or a unit, or as a power of ten."""
    for text in ("0.5", "$0.50", "0.5 USD", "usd 0.5", " 5e-1 "):
        assert rates(f"--input '{text}' --output 1").input == Decimal("0.5")
        assert of_run(text).usd == limits(text, None, None).cost_usd == Decimal("0.5")


def test_one_rate_per_thousand_is_both() -> None:
    made = rates("--per-1k 0.0015")
    assert (made.input, made.output) == (Decimal("1.5"), Decimal("1.5"))


def test_rates_are_set_on_top_of_what_was_set() -> None:
    before = rates("--input 1 --output 2")
    assert rates("--gpu-hour 3", before).device_hour == 3
    assert (rates("--input 5", before).input, rates("--input 5", before).output) == (5, 2)
    assert rates("--input 0 --output 0").output == 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "no rate is given"),
        ("--input 1", "give --output too"),
        ("--output 1", "give --input too"),
        ("--cached 1 --cache-write 2", "give --input and --output too"),
        ("--per-1k 1 --output 2", "--per-1k"),
        ("--input -1 --output 2", "--input"),
        ("--input one --output 2", "--input"),
        ("--input 1 --output nan", "--output"),
        ("--input inf --output 2", "--input"),
        ("--input 0.0000001 --output 2", "picodollar"),
        ("--gpu-hour -0.01", "--gpu-hour"),
        ("--gpu-hour '€2'", "--gpu-hour"),
    ],
)
def test_what_is_no_rate(line: str, says: str) -> None:
    with pytest.raises((UsageError, PriceError)) as raised:
        rates(line)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
