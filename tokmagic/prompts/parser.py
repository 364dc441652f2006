"""Option lines: split as a shell would, IPython's ``$name`` and ``{expr}`` filled in word by word."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from tokmagic.errors import UsageError, nearest

_EXPRESSION = re.compile(r"\{[^{}]*\}")
# All that begins with a dash, but for what can be no option of ours: a dash, a rule of dashes, a negative number.
_OPTION_WORD = re.compile(r"-(?!$|-{2,}$|[\d.])")
_OPTION = re.compile(r"\s*(-{1,2}[A-Za-z][\w-]*)(=?)")
_COMMENT = "# begins no comment on an option line; put it on a line of its own"
_WORD = re.compile(r"""\s*(?:"[^"]*"|'[^']*'|\S)+""")


class Unknown(str):
    """A word as it is written, which only running the cell fills in."""

    __slots__ = ()


class HelpWanted(UsageError):
    """``--help`` was given: ``text`` is what to print instead of running anything."""

    def __init__(self, text: str) -> None:
        super().__init__("--help shows the options and runs nothing")
        self.text = text


class _Help(argparse.Action):
    """argparse's own prints at once and exits; this one leaves both to whoever parses."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        raise HelpWanted(parser.format_help())


class Parser(argparse.ArgumentParser):
    """argparse for magics and the command: a UsageError in one line, with the nearest word, and never an exit."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, add_help=False, allow_abbrev=False, **options)
        self._commented = False
        self.add_argument("-h", "--help", action=_Help, nargs=0, default=argparse.SUPPRESS, help="show this help")

    def error(self, message: str) -> NoReturn:
        message = _COMMENT if self._commented else message
        raise UsageError(f"{message.removeprefix('argument ')}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all of ``args``. Each of the command's verbs comes by here, so it names its own nearest option.

        Raises UsageError, and HelpWanted for ``--help``.
        """
        # What stands behind a misspelt option is taken for a word: the option is what to tell of.
        self._unknown_value = ""
        words = self._arranged(args)
        self._commented = any(word[:1] == "#" for word in words)  # that is no option's value: --tag "#1" is one word
        found, unknown = super().parse_known_args(words, namespace)
        if unknown:
            is_option = unknown[0].startswith("-")
            near = nearest(unknown[0], [it for it in self._option_string_actions if it.startswith("--")])
            if is_option:
                self.error(f"unknown option {unknown[0]!r}{near}")
            self.error(f"unknown word {unknown[0]!r}; a value with spaces needs quotes")
        if self._unknown_value:
            self.error(self._unknown_value)
        return found, unknown

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
        return self.parse_args(known), frozenset(unknown)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            says = f"{name} {value!r} is unknown{nearest(value, action.choices)}; use {', '.join(action.choices)}"
            if isinstance(action, argparse._SubParsersAction):
                self.error(says)
            self._unknown_value = self._unknown_value or says

    def _takes_word(self, option: str) -> bool:
        action = self._option_string_actions.get(option)
        return action is not None and action.nargs is None

    def _arranged(self, words: Sequence[str]) -> list[str]:
        """The words as argparse reads them.

        It takes any word that begins with a dash for an option, so ``--stop ---`` becomes ``--stop=---``; and optional
        words in one go or not at all, so ``freeze --texts FILE`` becomes ``--texts freeze FILE``.
        """
        joined: list[str] = []
        for word in words:
            if joined and self._takes_word(joined[-1]) and not _is_option(word):
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        if self._subparsers is not None or any(word == "--" or self._takes_word(word) for word in joined):
            return joined
        return sorted(joined, key=_is_option, reverse=True)

    def leading(self, line: str) -> tuple[str, str]:
        """Split ``line`` into the options that it begins with and the rest as it stands, quotes and all."""
        at = 0
        while found := _OPTION.match(line, at):
            at = found.end()
            if (found[2] or self._takes_word(found[1])) and (word := _WORD.match(line, at)):
                at = word.end()
        return line[:at], line[at:].strip()


def _is_option(word: str) -> bool:
    return _OPTION_WORD.match(word) is not None


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


def integer(text: str) -> int:
    """An integer that may be written 1_000 or 1e3."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)
