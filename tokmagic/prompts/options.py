"""Each option of a run once: what it is called, how it is read, and what it may be.

``%%generate``, ``%%tokens`` and ``tokmagic run`` add these to their parsers; :func:`check_sampling` holds Python's
``generate`` to the same bounds.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from decimal import Decimal
from typing import Any, NamedTuple

from tokmagic.core.prompt import Prompt, Sampling
from tokmagic.errors import UsageError
from tokmagic.prompts.parser import Parser, integer

_USUAL = Sampling()
# Beyond any model's context, and far inside the 64 bits that the ledger has for sums of tokens.
_MOST = 1_000_000_000
# Each text is looked for in each piece of the answer.
_MOST_STOPS = 64
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_SCHEMA = "make the answer conform to a JSON schema: JSON text, or an expression in a notebook, a file in a terminal"


class _Number(NamedTuple):
    """A number among the sampling options; its default is the field's in :class:`Sampling`."""

    option: str
    metavar: str
    read: Callable[[str], float]
    low: float
    high: float
    help: str
    above_low: bool = False

    @property
    def field(self) -> str:
        return self.option.lstrip("-").replace("-", "_")


_NUMBERS = (
    _Number("--max-tokens", "N", integer, 1, _MOST, "maximum output tokens (256)"),
    _Number("--temperature", "T", float, 0, _MOST, "0 is greedy; default: the model's own"),
    _Number("--top-p", "P", float, 0, 1, "nucleus sampling", above_low=True),
    _Number("--top-k", "K", integer, 1, _MOST, "sample among the K most likely tokens"),
    _Number("--min-p", "P", float, 0, 1, "drop tokens less likely than P times the most likely"),
    _Number("--repetition-penalty", "R", float, 0, _MOST, "above 1, repeats less", above_low=True),
    _Number("--seed", "N", integer, 0, 2**63 - 1, "the same seed gives the same answer"),
    _Number("-n", "N", integer, 1, 128, "how many answers to sample (1)"),
)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How the answer is sampled."""
    add = parser.add_argument
    _add_numbers(parser, _NUMBERS)
    _add_stop(parser)
    add("--json-schema", metavar="SCHEMA", help=_SCHEMA)
    add("--logprobs", action="store_true", help="keep each token's log probability, in .choices and --json")


def _add_stop(parser: argparse.ArgumentParser) -> None:
    told = r"stop at this text (repeatable); \n, \t and \r are a line end, a tab and a return, and \\ is one backslash"
    parser.add_argument("--stop", action="append", default=[], type=_unescaped, metavar="TEXT", help=told)


def _unescaped(text: str) -> str:
    """A text with its escapes: no line end can be typed into an option line."""
    return re.sub(r"\\([ntr\\])", lambda found: _ESCAPES[found[1]], text)


def _add_numbers(parser: argparse.ArgumentParser, numbers: Iterable[_Number]) -> None:
    for it in numbers:
        default = getattr(_USUAL, it.field)
        parser.add_argument(it.option, type=it.read, metavar=it.metavar, default=default, help=it.help)


def add_messages(parser: argparse.ArgumentParser) -> None:
    """How the text becomes messages."""
    add = parser.add_argument
    add("--system", metavar="TEXT", help="system message")
    add("--literal", action="store_true", help="no template and no role lines: all text is literal")
    add("--completion", action="store_true", help="pass the text as is, without a chat template")


def add_run(parser: argparse.ArgumentParser) -> None:
    """What both ``%%generate`` and ``tokmagic run`` take."""
    add = parser.add_argument
    add("-m", "--model", metavar="NAME", help="model to run: its name, a Hugging Face id or a folder")
    add_messages(parser)
    add_sampling(parser)
    add("--no-stream", action="store_true", help="show the answer when it is complete")
    add("--cache", action="store_true", help="replay an identical run even without a seed")
    add("--no-cache", action="store_true", help="bypass the cache for this run")
    add("--refresh", action="store_true", help="generate again and replace the cached answer")
    add("--dry-run", action="store_true", help="count and price the prompt without running it")
    add("--budget", metavar="USD", help="maximum that this run may cost")
    add("--yes", action="store_true", help="run a prompt longer than the cell's budget allows without asking")
    add("--tag", action="append", default=[], metavar="TEXT", help="label in the ledger (repeatable)")
    add("--quiet", action="store_true", help="show nothing")


def add_models(parser: argparse.ArgumentParser) -> None:
    """The models to count for; :func:`model_names` reads them."""
    told = "models to count for (default: the current one)"
    parser.add_argument("-m", "--model", action="append", default=[], metavar="A,B,…", help=told)


def add_endpoint(parser: argparse.ArgumentParser) -> None:
    """A model at a server."""
    add = parser.add_argument
    add("--api-base", metavar="URL", help="an OpenAI-compatible server; the model is the one of that name there")
    add("--api-key-name", metavar="ENV", help="environment variable that holds the server's key")
    add("--server", metavar="KIND", help="the kind of server, such as openai, vllm or ollama")
    add("--tokenizer", metavar="SPEC", help="model or folder whose tokenizer counts locally for a server's model")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """A model at a shared engine."""
    told = "a shared engine, as tokmagic serve starts it; the model is the one of that name there"
    parser.add_argument("--engine", metavar="URL", help=told)


def add_rates(parser: argparse.ArgumentParser) -> None:
    """What a model costs, and what a hosted one would."""
    add_own_rates(parser)
    told = "also calculate what a hosted model would cost; off ends this"
    parser.add_argument("--as", dest="shadow", metavar="PROVIDER/MODEL", help=told)


def add_own_rates(parser: argparse.ArgumentParser) -> None:
    """What a model costs."""
    add = parser.add_argument
    add("--input", metavar="USD", help="USD per 1M input tokens")
    add("--output", metavar="USD", help="USD per 1M output tokens")
    add("--cached", metavar="USD", help="USD per 1M cached input tokens")
    add("--cache-write", metavar="USD", help="USD per 1M input tokens written to a cache")
    add("--per-1k", metavar="USD", help="one rate for input and output, in USD per 1,000 tokens")
    add("--gpu-hour", metavar="USD", help="USD per hour of the device")


def add_tag_filter(parser: argparse.ArgumentParser) -> None:
    """Which runs are looked at."""
    told = "only runs with this tag (repeat to require several)"
    parser.add_argument("--tag", action="append", default=[], metavar="TEXT", help=told)


def generate_parser() -> Parser:
    """The options of ``%%generate``."""
    parser = Parser("%%generate")
    add = parser.add_argument
    add("--into", metavar="NAME", help="variable that stores the Generation")
    add("--chat", metavar="NAME", help="continue the conversation with this name")
    add("--reset", action="store_true", help="start the conversation again from the beginning")
    forms = ["markdown", "text", "code", "json"]
    add("--format", choices=forms, default="markdown", help="how to show the answer")
    add_run(parser)
    return parser


def tokens_parser() -> Parser:
    """The words and options of ``%tokens`` and ``%%tokens``."""
    parser = Parser(
        "%tokens",
        usage="%%tokens [options] EXPR, or %%%%tokens [options] over a cell that is a prompt",
        epilog="EXPR gives a text, a list of {'role': …, 'content': …} messages, or a Generation (its prompt)",
    )
    add_models(parser)
    add_messages(parser)
    told = "how many tokens to show with their boundaries (500)"
    parser.add_argument("--show", type=integer, metavar="N", default=500, help=told)
    return parser


# A comparison's seed is that of its order, and it asks more than once by repeats of their own.
_COMPARED = tuple(it for it in _NUMBERS if it.field not in ("seed", "n"))


SAVINGS = "also say where the money goes; what leaving out parts of the best prompt may cost (0: leave out none)"


def compare_parser() -> Parser:
    """The options of ``%%compare``."""
    parser = Parser("%%compare")
    add = parser.add_argument
    add(
        "--over",
        metavar="ITEMS",
        help="a list of dicts, a DataFrame, a .csv, .jsonl or .parquet file, a data set's folder",
    )
    add("-m", "--model", action="append", default=[], metavar="A,B,…", help="models to run (default: the current one)")
    add("--score", metavar="SCORE", help="exact(COLUMN), another score, or a function of answer and item")
    add("--repeat", type=integer, metavar="N", default=1, help="how often each item is asked (1)")
    add("--baseline", metavar="VARIANT", help="variant that the others are compared with (the first)")
    add("--budget", metavar="USD", help="maximum that all of it may cost")
    add("--pilot", type=integer, metavar="N", help="run only so many items, for a forecast of the rest")
    add("--savings", metavar="USD", help=SAVINGS)
    add("--concurrency", type=integer, metavar="N", help="how many runs go on at once at each server or local model")
    add("--seed", type=integer, metavar="N", default=0, help="decides the order and what is resampled (0)")
    _add_numbers(parser, _COMPARED)
    _add_stop(parser)
    add("--tag", action="append", default=[], metavar="TEXT", help="label in the ledger (repeatable)")
    add("--into", metavar="NAME", help="variable that stores the comparison")
    add("--quiet", action="store_true", help="show nothing")
    return parser


def given_numbers(options: argparse.Namespace) -> dict[str, Any]:
    """The sampling options of ``%%compare`` by their Python names; those that were not given are left out."""
    values = {it.field: getattr(options, it.field) for it in _COMPARED}
    return {name: value for name, value in values.items() if value is not None}


def model_names(given: Iterable[str]) -> list[str]:
    """The names in ``-m A,B -m C``."""
    names = [name.strip() for word in given for name in word.split(",")]
    return [name for name in names if name]


def sampling(options: argparse.Namespace, json_schema: str | None = None) -> Sampling:
    """What the options say about sampling, unchecked."""
    given = {it.name: getattr(options, it.name) for it in fields(Sampling)}
    return Sampling(**{**given, "stop": tuple(options.stop), "json_schema": json_schema})


def check_sampling(sampling: Sampling) -> Sampling:
    """Return ``sampling`` if every value is in its range, else raise UsageError naming the option."""
    for it in _NUMBERS:
        value = getattr(sampling, it.field)
        if value is not None or getattr(_USUAL, it.field) is not None:
            _check_number(it, value)
    if not isinstance(sampling.logprobs, bool):
        raise UsageError(f"logprobs is {sampling.logprobs!r}; give True or False")
    if not isinstance(sampling.stop, tuple | list):  # of a text each letter would be one
        raise UsageError(f"--stop is {sampling.stop!r}; give a tuple of strings")
    if any(not isinstance(text, str) for text in sampling.stop):
        raise UsageError(f"--stop is {sampling.stop!r}; give strings")
    if any(not text for text in sampling.stop):
        raise UsageError("--stop is empty; give the text at which the answer should stop")
    if len(sampling.stop) > _MOST_STOPS:
        raise UsageError(f"--stop is given {len(sampling.stop):,} times; give at most {_MOST_STOPS} texts")
    return sampling


def check_prompt(prompt: Prompt) -> None:
    """Raise UsageError where no answer can be what is asked for, or an option of its sampling is out of its range."""
    least, most = prompt.min_tokens, check_sampling(prompt.sampling).max_tokens
    if isinstance(least, bool) or not isinstance(least, int) or not 0 <= least <= most:
        raise UsageError(f"min_tokens is {least!r}; give a whole number from 0 to max_tokens, {most:,}")
    if prompt.sampling.json_schema is not None and (least or prompt.ignore_eos):
        name = "ignore_eos" if prompt.ignore_eos else "min_tokens"
        raise UsageError(f"an answer that has to fit a JSON schema ends where it does; leave out {name} or the schema")


def _check_number(it: _Number, value: Any) -> None:
    whole = it.read is integer
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise UsageError(f"{it.option} is {value!r}; give a {'whole ' if whole else ''}number")
    # Compared as they are: a long int does not fit a float, and nan compares false.
    if not ((it.low < value if it.above_low else it.low <= value) and value <= it.high):
        bounds = f"above {it.low:,}" if it.above_low else f"at least {it.low:,}"
        raise UsageError(f"{it.option} is {_short(value)}; it must be {bounds} and at most {it.high:,}")


def _short(value: float) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if abs(value) < 10**20 else f"{Decimal(value):.3g}"
