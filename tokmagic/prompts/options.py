"""Option lines: split as a shell would, IPython's ``$name`` and ``{expr}`` filled in word by word."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from tokmagic.core.prompt import Sampling
from tokmagic.errors import UsageError, nearest

_EXPRESSION = re.compile(r"\{[^{}]*\}")
# Begins with a dash, but can be no option of ours: a rule of dashes, a negative number.
_NO_OPTION = re.compile(r"-{3,}$|-[\d.]")
_OPTION = re.compile(r"\s*(-{1,2}[A-Za-z][\w-]*)(=?)")
_WORD = re.compile(r"""\s*(?:"[^"]*"|'[^']*'|\S)+""")


class Unknown(str):
    """A word as it is written, which only running the cell fills in."""

    __slots__ = ()


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError in one line, with the nearest option, and never exits."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, add_help=False, allow_abbrev=False, exit_on_error=False, **options)
        # Ours, since the one of the base class prints and exits.
        self.add_argument("-h", "--help", action="store_true", help="show this help")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; see {self.prog} --help")

    def parse_words(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse words that were split already. Raises UsageError."""
        try:
            found, unknown = self.parse_known_args(self._joined(words))
        except argparse.ArgumentError as error:
            self.error(str(error).removeprefix("argument "))
        if unknown and not found.help:
            options = [option for option in self._option_string_actions if option.startswith("--")]
            near = nearest(unknown[0], options) if unknown[0].startswith("-") else ""
            kind = "option" if unknown[0].startswith("-") else "word"
            self.error(f"unknown {kind} {unknown[0]!r}{near}")
        return found

    def parse_known_words(self, words: Sequence[str]) -> tuple[argparse.Namespace, frozenset[str]]:
        """Parse what is known of ``words``; the rest are the names of options whose value is :class:`Unknown`.

        Among them is ``""`` where not even the option is known. Raises UsageError.
        """
        known: list[str] = []
        unknown: set[str] = set()
        for word in words:
            if not isinstance(word, Unknown):
                known.append(word)
            elif known and self._takes_word(known[-1]):
                unknown.add(self._option_string_actions[known.pop()].dest)
            else:
                short = "" if word.startswith("--") else word[:2]
                options = [it for it in (word.partition("=")[0], short) if self._takes_word(it)]
                unknown.add(self._option_string_actions[options[0]].dest if options else "")
        return self.parse_words(known), frozenset(unknown)

    def _takes_word(self, option: str) -> bool:
        action = self._option_string_actions.get(option)
        return action is not None and action.nargs is None

    def _joined(self, words: Sequence[str]) -> list[str]:
        """``--stop ---`` as ``--stop=---``: argparse takes any word that begins with a dash for an option."""
        joined: list[str] = []
        for word in words:
            if joined and self._takes_word(joined[-1]) and _NO_OPTION.match(word):
                joined[-1] += ("=" if joined[-1].startswith("--") else "") + word
            else:
                joined.append(word)
        return joined

    def leading(self, line: str) -> tuple[str, str]:
        """Split ``line`` into the options that it begins with and the rest as it stands, quotes and all."""
        at = 0
        while found := _OPTION.match(line, at):
            at = found.end()
            if (found[2] or self._takes_word(found[1])) and (word := _WORD.match(line, at)):
                at = word.end()
        return line[:at], line[at:].strip()

    def options(self) -> list[str]:
        """All option words, for completion."""
        return sorted(self._option_string_actions)


def split(line: str, expand: Callable[[str], str]) -> list[str]:
    """Split an option line into words, quotes grouping them, and fill each one in.

    Filled in after splitting, so that a variable's spaces and quotes do not make more words; those inside ``{expr}``
    belong to the expression.
    """
    expressions: list[str] = []

    def set_aside(match: re.Match[str]) -> str:
        expressions.append(match[0])
        return f"{{{len(expressions) - 1}}}"

    try:
        words = shlex.split(_EXPRESSION.sub(set_aside, line))
    except ValueError as error:
        raise UsageError(f"the option line cannot be read: {error}; close the quotation") from None
    words = [_EXPRESSION.sub(lambda match: expressions[int(match[0][1:-1])], word) for word in words]
    return [expand(word) if re.search(r"[${]", word) else word for word in words]


def sampling(options: argparse.Namespace, json_schema: str | None = None) -> Sampling:
    """What the options of ``%%generate`` say about sampling, unchecked."""
    return Sampling(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        stop=tuple(options.stop),
        seed=options.seed,
        n=options.n,
        json_schema=json_schema,
        logprobs=options.logprobs,
    )


def integer(text: str) -> int:
    """An integer that may be written 1_000 or 1e3."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def generate_parser() -> Parser:
    """The options of ``%%generate``."""
    parser = Parser("%%generate")
    add = parser.add_argument
    add("-m", "--model", metavar="NAME", help="model to run, by name or SPEC")
    add("--into", metavar="NAME", help="variable that stores the Generation")
    add("--system", metavar="TEXT", help="system message")
    add("--chat", metavar="NAME", help="continue the conversation with this name")
    add("--reset", action="store_true", help="start the conversation again from the beginning")
    add("--max-tokens", type=integer, metavar="N", default=256, help="maximum output tokens (256)")
    add("--temperature", type=float, metavar="T", help="0 is greedy; default: the model's own")
    add("--top-p", type=float, metavar="P", help="nucleus sampling")
    add("--top-k", type=integer, metavar="K", help="sample among the K most likely tokens")
    add("--min-p", type=float, metavar="P", help="drop tokens less likely than P times the most likely")
    add("--repetition-penalty", type=float, metavar="R", help="above 1, repeats less")
    add("--stop", action="append", default=[], metavar="TEXT", help="stop at this text (repeatable)")
    add("--seed", type=integer, metavar="N", help="the same seed gives the same answer")
    add("-n", type=integer, metavar="N", default=1, help="how many answers to sample")
    add(
        "--format",
        choices=["markdown", "text", "code", "json"],
        default="markdown",
        help="how to show the answer",
    )
    add("--json-schema", metavar="EXPR", help="make the answer conform to a JSON schema, given as a dict or as text")
    add("--logprobs", action="store_true", help="keep each token's log probability: .choices[0].logprobs")
    add("--literal", action="store_true", help="no template and no role lines: all text is literal")
    add("--completion", action="store_true", help="pass the text as is, without a chat template")
    add("--no-stream", action="store_true", help="show the answer when it is complete")
    add("--cache", action="store_true", help="replay an identical run even without a seed")
    add("--no-cache", action="store_true", help="bypass the cache for this run")
    add("--refresh", action="store_true", help="generate again and replace the cached answer")
    add("--dry-run", action="store_true", help="count and price the prompt without running it")
    add("--budget", metavar="USD", help="maximum that this run may cost")
    add("--yes", action="store_true", help="run a prompt longer than the cell's budget allows without asking")
    add("--tag", action="append", default=[], metavar="TEXT", help="label in the ledger (repeatable)")
    add("--quiet", action="store_true", help="show nothing")
    return parser


def tokens_parser() -> Parser:
    """The words and options of ``%tokens`` and ``%%tokens``."""
    parser = Parser(
        "%tokens",
        usage="%%tokens [options] EXPR, or %%%%tokens [options] over a cell that is a prompt",
        epilog="EXPR gives a text, a list of {'role': …, 'content': …} messages, or a Generation (its prompt)",
    )
    add = parser.add_argument
    add("-m", "--model", action="append", metavar="A,B,…", help="models to count for (default: the current one)")
    add("--system", metavar="TEXT", help="system message")
    add("--literal", action="store_true", help="no template and no role lines: all text is literal")
    add("--completion", action="store_true", help="count the text as is, without a chat template")
    add("--show", type=integer, metavar="N", default=500, help="how many tokens to show with their boundaries (500)")
    return parser


def model_parser() -> Parser:
    """The words and options of ``%model``."""
    parser = Parser("%model")
    add = parser.add_argument
    add("action", nargs="?", default="list", help="list, add, use, load, unload or info")
    add("name", nargs="?", help="the model's name in this session")
    add("spec", nargs="?", help="Hugging Face id, folder, or the name at an endpoint")
    add("--all", action="store_true", help="unload every model")
    add("--keep", action="store_true", help="keep the models already loaded")
    add_spec_options(parser)
    return parser


def add_spec_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how a model is run."""
    add = parser.add_argument
    add("--quant", choices=["nf4", "int8", "none"], help="quantise with bitsandbytes while loading")
    add("--dtype", metavar="TYPE", help="bf16, fp16 or fp32; default: the checkpoint's")
    add("--device", metavar="DEVICE", help="cpu, cuda or cuda:N; default: CUDA if available")
    add("--compile", choices=["auto", "on", "off"], default="auto", help="torch.compile with a static cache")
    add("--revision", metavar="REV", help="branch, tag or commit on the hub")
    add("--api-base", metavar="URL", help="an OpenAI-compatible server; SPEC is the model's name there")
    add("--api-key-name", metavar="ENV", help="environment variable that holds the server's key")
    add("--server", metavar="KIND", help="the kind of server, such as openai, vllm or ollama")
    add("--tokenizer", metavar="SPEC", help="model or folder whose tokenizer counts locally for a server's model")
    add("--trust-remote-code", action="store_true", help="let the model run its own code")
    add("--allow-pickle", action="store_true", help="read pickled weights, which can run code")


def price_parser() -> Parser:
    """The words and options of ``%price``."""
    parser = Parser("%price")
    add = parser.add_argument
    add("model", nargs="?", help="the model whose rates are set; none: list the rates")
    add("off", nargs="?", choices=["off"], help="remove all rates set for the model")
    add("--input", metavar="USD", help="USD per 1M input tokens")
    add("--output", metavar="USD", help="USD per 1M output tokens")
    add("--cached", metavar="USD", help="USD per 1M cached input tokens")
    add("--cache-write", metavar="USD", help="USD per 1M input tokens written to a cache")
    add("--per-1k", metavar="USD", help="one rate for input and output, in USD per 1,000 tokens")
    add("--gpu-hour", metavar="USD", help="USD per hour of the device")
    add(
        "--as",
        dest="shadow",
        metavar="PROVIDER/MODEL",
        help="also calculate what a hosted model would cost; off ends this",
    )
    return parser


def budget_parser() -> Parser:
    """The words and options of ``%budget``."""
    parser = Parser("%budget")
    add = parser.add_argument
    add("scope", nargs="?", help="cell (each single run), notebook, day, month; off removes your budgets; none: list")
    add("usd", nargs="?", metavar="USD", help="the cap in USD, or off")
    add("--tokens", type=integer, metavar="N", help="cap in tokens; for cell: the prompt length above which it asks")
    add("--warn", type=float, metavar="SHARE", default=0.8, help="share of the cap at which it warns (0.8)")
    add("--strict", action="store_true", help="refuse runs without a known price instead of warning")
    add("--everyone", action="store_true", help="cap each user of a shared ledger, not only you")
    return parser


def cache_parser() -> Parser:
    """The words of ``%cache``."""
    parser = Parser("%cache")
    parser.add_argument(
        "action",
        nargs="?",
        default="status",
        help="status (or none): its contents and savings; on, off; clear: empty it",
    )
    return parser


def cost_parser() -> Parser:
    """The words and options of ``%cost``."""
    parser = Parser("%cost")
    add = parser.add_argument
    add(
        "action",
        nargs="?",
        help="by GROUP, compare OLD, df (pandas), export FILE, plot, project, waste; none: a line for each cell",
    )
    add(
        "value",
        nargs="?",
        help="what to group by (cell, run, model, notebook, day, tag, user, status); the file; "
        "compare: an earlier .ipynb, or git:HEAD",
    )
    add("--tag", action="append", default=[], metavar="TEXT", help="only runs with this tag (repeatable: with all)")
    add("--calls", metavar="N/UNIT", help="project: how often, such as 1e6/day (hour, day, week, month)")
    add("--cell", metavar="CELL", help="project: the cell's number in %%cost, or its id (default: the one run last)")
    return parser


def tokmagic_freeze_parser() -> Parser:
    """The words and options of ``%tokmagic freeze``."""
    parser = Parser("%tokmagic freeze")
    add = parser.add_argument
    add(
        "file",
        nargs="?",
        help="file to write, or the notebook if its name is not known here (NOTEBOOK.tokmagic.json next to it)",
    )
    add("--texts", action="store_true", help="write the answers' texts too, not only their digests")
    return parser
