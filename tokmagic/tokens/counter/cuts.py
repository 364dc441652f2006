"""Where text may be cut so that the tokens of the pieces are the tokens of the whole.

Whether it may is a question about the two characters at the cut alone, whatever stands around them, so a cut stays good
for as long as these two do not change. docs/decisions/0014-a-live-count-is-a-sum-over-safe-cuts.md has the argument.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tokmagic.tokens.counter.patterns import ANY, SPACELESS, SPACES, CharSet, Pattern, UnreadPattern, literal, read

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"
_FIXED = {
    "BertPreTokenizer": (r"\s", _PUNCTUATION),
    "Whitespace": (r"\w+|[^\w\s]+",),
    "WhitespaceSplit": (r"\s",),
}
_CJK_PUNCTUATION = "、。！，：；？"
_KNOWN = frozenset(map(chr, range(128))) | frozenset(
    _CJK_PUNCTUATION
    + "".join(chr(code) for low, high in ("ぁん", "ァヶ", "一龥") for code in range(ord(low), ord(high) + 1))
)
# White space in some version of Unicode or of a library, and not in another.
_DOUBTFUL_SPACES = "\x1c\x1d\x1e\x1f\u180e\u200b"
# Nothing composes with these: an overlay, for one, makes ≠ of =.
_MARKS = "".join(set(string.punctuation) - set("<=>"))
# These change text from one such mark or space to the next, each part by itself, and leave the mark or space as it is.
_LOCAL_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer"}


class NoCuts(ValueError):
    """This tokenizer does something that nobody has shown to leave cuts alone."""


class Cuts:
    """The places where one tokenizer's text may be cut."""

    def __init__(self, backend: Tokenizer) -> None:
        """Look at how ``backend`` is built. Raises NoCuts."""
        _check_model(backend)
        _check_processor(_spec(backend.post_processor))
        normalizers = {spec["type"] for spec in _flat(_spec(backend.normalizer), "normalizers")}
        if not normalizers <= _LOCAL_NORMALIZERS:
            raise NoCuts(f"normalizers {normalizers - _LOCAL_NORMALIZERS}")
        self._raw = not normalizers
        self._keeps = normalizers <= {"NFC"}
        """Text stays what it is but for compositions, and white space where it is."""
        stages = _flat(_spec(backend.pre_tokenizer), "pretokenizers")
        if any(stage["type"] == "ByteLevel" for stage in stages[:-1]):
            raise NoCuts("patterns over bytes written as letters")
        try:
            patterns = [pattern for stage in stages for pattern in _patterns(stage)]
        except UnreadPattern as error:
            raise NoCuts(str(error)) from error
        rights = " \t\n\r" + _MARKS + _CJK_PUNCTUATION if self._keeps else " " + _MARKS
        if any(stage.get("add_prefix_space") for stage in stages):
            # Text gets a space in front unless it has one, so a piece must have one too.
            rights = " "
        parted = any(_drops_gaps(stage) for stage in stages)
        self._bound: dict[str, list[CharSet]] = {
            right: [chars for pattern in patterns for chars in pattern.bound_to(right)]
            for right in rights
            if parted or any(pattern.starts(right) for pattern in patterns)
        }
        self._add_tokens(backend)
        self._memo: dict[str, bool] = {}

    def __call__(self, pair: str) -> bool:
        """Whether text may be cut between these two characters."""
        if pair[1] not in self._bound:
            return False
        known = self._memo.get(pair)
        if known is None:
            known = self._memo[pair] = self._is_cut(pair[0], pair[1])
        return known

    def at_spaces(self) -> bool:
        """Whether common text can be cut at every other space or so."""
        return any(self(letter + " ") for letter in string.ascii_letters)

    def _is_cut(self, left: str, right: str) -> bool:
        if left.isspace() or left in _DOUBTFUL_SPACES:
            return False
        kept = self._keeps and left in _KNOWN
        if not self._is_outside_tokens(left, right, sure=self._raw or kept):
            return False
        kind = left if kept else SPACELESS if self._keeps else ANY
        return all(chars(kind) is False for chars in self._bound[right])

    def _is_outside_tokens(self, left: str, right: str, sure: bool) -> bool:
        """Whether no added token, with the white space it swallows, goes over the cut.

        Not ``sure`` is that the text still has ``left`` there once it is normalised.
        """
        if left + right in self._pairs or (not sure and right in self._pair_ends):
            return False
        return not (right in SPACES and self._swallowing_ends and (not sure or left in self._swallowing_ends))

    def _add_tokens(self, backend: Tokenizer) -> None:
        tokens = list(backend.get_added_tokens_decoder().values())
        if any(token.single_word or not token.content for token in tokens):
            raise NoCuts("an added token that looks at the words around it")
        if not self._keeps and any(token.lstrip or token.rstrip for token in tokens):
            raise NoCuts("an added token that swallows spaces which the normalizer makes")
        forms = {
            token.content: (
                token.content,
                backend.normalizer.normalize_str(token.content) if backend.normalizer else "",
            )
            for token in tokens
        }
        self._pairs = {form[at : at + 2] for both in forms.values() for form in both for at in range(len(form) - 1)}
        self._pair_ends = {pair[1] for pair in self._pairs if not (self._keeps and pair[0].isspace())}
        self._swallowing_ends = {form[-1] for token in tokens if token.rstrip for form in forms[token.content] if form}


def _spec(component: Any) -> dict[str, Any] | None:
    """Return what a part of a tokenizer says of itself in tokenizer.json, without the vocabulary."""
    if component is None:
        return None
    try:
        return dict(json.loads(component.__getstate__()))
    except Exception as error:
        # The library raises a bare Exception for a part that is written in Python.
        raise NoCuts(str(error)) from error


def _flat(spec: dict[str, Any] | None, members: str) -> list[dict[str, Any]]:
    if spec is None:
        return []
    if spec["type"] != "Sequence":
        return [spec]
    return [one for member in spec[members] for one in _flat(member, members)]


def _patterns(stage: dict[str, Any]) -> Iterator[Pattern]:
    """Yield what one step of the pre-tokenizer splits by, each pattern within the parts of the one before."""
    kind = stage["type"]
    if kind == "Split" and stage["behavior"] in ("Isolated", "Removed"):
        ((syntax, text),) = stage["pattern"].items()
        yield read(text) if syntax == "Regex" else literal(text)
    elif kind == "ByteLevel":
        yield from [read(_GPT2)] if stage["use_regex"] else []
    elif kind == "Digits":
        yield read(r"\p{N}" if stage["individual_digits"] else r"\p{N}+")
    elif kind == "Punctuation" and stage["behavior"] in ("Isolated", "Removed"):
        yield read(_PUNCTUATION)
    elif kind in _FIXED:
        yield from map(read, _FIXED[kind])
    else:
        raise NoCuts(f"the pre-tokenizer {kind} with the behaviour {stage.get('behavior')}")


def _drops_gaps(stage: dict[str, Any]) -> bool:
    """Whether what no match takes is thrown away, so that nothing needs to part it."""
    removed = stage["type"] == "Split" and stage["behavior"] == "Removed" and stage["invert"]
    return bool(removed) or stage["type"] == "Whitespace"


def _check_model(backend: Tokenizer) -> None:
    kind = type(backend.model).__name__
    if kind not in ("BPE", "WordPiece", "WordLevel"):
        raise NoCuts(f"a model of the kind {kind}")
    if getattr(backend.model, "dropout", None):
        raise NoCuts("a model with dropout")


def _check_processor(spec: dict[str, Any] | None) -> None:
    """A processor may add tokens to the text's own, and do nothing else with them."""
    for processor in _flat(spec, "processors"):
        kind = processor["type"]
        if kind == "TemplateProcessing" and sum("Sequence" in piece for piece in processor["single"]) == 1:
            continue
        if kind not in ("ByteLevel", "BertProcessing", "RobertaProcessing"):
            raise NoCuts(f"the post-processor {kind}")
