"""Tokenizers of the kinds that models use, trained on a page of text; and ones that make the cuts of these visible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tokenizers import (
    AddedToken,
    PreTokenizedString,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TEXT += "don't WE'LL 12345 naïve\n\n  x = {'a': 1}\r\n你好，世界。"

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACE_TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACE_TAIL
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + SPACE_TAIL
)
POSSESSIVE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    + SPACE_TAIL,
)


def split(*patterns: str, prefix: bool = False) -> pre_tokenizers.PreTokenizer:
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)])


CHATML = [AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>", "<|im_end", "|>a")]
SPACES = [AddedToken(" " * count, normalized=True) for count in (2, 3, 4, 8)]
SWALLOWING = [
    AddedToken("<|end|>", rstrip=True, special=True),
    AddedToken("<mask>", lstrip=True, special=True),
    AddedToken("the", rstrip=True, lstrip=True, normalized=True),
]
INSIDE = [AddedToken("é b", normalized=True), AddedToken("[a.b]", normalized=False), AddedToken(". ", special=True)]


def bpe(
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    tokens: list[AddedToken],
    normalizer: normalizers.Normalizer | None = None,
) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_tokens(tokens)
    return made


def bert(normalizer: normalizers.Normalizer, *tokens: AddedToken) -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    made.train_from_iterator([TEXT], trainer)
    made.add_tokens([AddedToken("[MASK]", special=True), AddedToken("Straße.a", normalized=True), *tokens])
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return made


def pieces(
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    tokens: list[AddedToken],
    normalizer: normalizers.Normalizer | None = None,
) -> Tokenizer:
    """Count what the pre-tokenizer makes, one token each: a cut in the midst of any shows."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    if normalizer is not None:
        made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizer
    made.add_tokens(tokens)
    return made


def with_start(made: Tokenizer) -> Tokenizer:
    made.add_special_tokens(["<s>"])
    template = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))])
    made.post_processor = processors.Sequence([processors.ByteLevel(), template])
    return made


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
MIXED = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])
INCREMENTAL: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: bpe(GPT2, CHATML),
    "gpt2-prefix": lambda: bpe(pre_tokenizers.ByteLevel(add_prefix_space=True), CHATML),
    "gpt2-swallowing": lambda: bpe(GPT2, SWALLOWING),
    "gpt2-inside": lambda: bpe(GPT2, INSIDE),
    "nfc-inside": lambda: bpe(GPT2, INSIDE, normalizers.NFC()),
    "token-over-spaces": lambda: bpe(GPT2, [AddedToken("a b"), AddedToken("é b")], normalizers.NFC()),
    "neox": lambda: bpe(GPT2, SPACES, normalizers.NFC()),
    "starcoder": lambda: bpe(MIXED, CHATML),
    "llama3": lambda: with_start(bpe(split(LLAMA3), CHATML)),
    "qwen2": lambda: bpe(split(QWEN2), CHATML, normalizers.NFC()),
    "gpt4o": lambda: bpe(split(GPT4O), CHATML),
    "possessive": lambda: bpe(split(POSSESSIVE), CHATML),
    "deepseek": lambda: bpe(split(*DEEPSEEK), CHATML),
    "bert": lambda: bert(normalizers.BertNormalizer()),
    "bert-cased": lambda: bert(normalizers.BertNormalizer(lowercase=False, strip_accents=True)),
    "bert-nfkc": lambda: bert(normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
    "gpt2-pieces": lambda: pieces(GPT2, CHATML),
    "gpt2-prefix-pieces": lambda: pieces(pre_tokenizers.ByteLevel(add_prefix_space=True), SWALLOWING),
    "swallowing-pieces": lambda: pieces(GPT2, SWALLOWING),
    "spaces-pieces": lambda: pieces(GPT2, SPACES),
    "llama3-pieces": lambda: pieces(split(LLAMA3), CHATML),
    "llama3-prefix-pieces": lambda: pieces(split(LLAMA3, prefix=True), CHATML),
    "gpt4o-pieces": lambda: pieces(split(GPT4O), CHATML),
    "possessive-pieces": lambda: pieces(split(POSSESSIVE), CHATML),
    "deepseek-pieces": lambda: pieces(split(*DEEPSEEK), CHATML),
    "whitespace-pieces": lambda: pieces(pre_tokenizers.Whitespace(), CHATML),
    "kept-matches-pieces": lambda: pieces(
        pre_tokenizers.Split(Regex(r"'s|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True), CHATML
    ),
    "looks-ahead-pieces": lambda: pieces(split(r"\p{L}+(?!\S)|\s+|\S"), CHATML),
    "either-case-pieces": lambda: pieces(split(r"(?i:a\.b)|\p{L}+|\s+|[^\s\p{L}]"), CHATML),
    "space-split-pieces": lambda: pieces(pre_tokenizers.Split(" ", "isolated"), CHATML),
}


def metaspace() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    made.train_from_iterator([TEXT], trainer)
    return made


def llama2() -> Tokenizer:
    """No pre-tokenizer: merges may go over spaces."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=600, show_progress=False))
    return made


class Plain:
    def pre_tokenize(self, text: PreTokenizedString) -> None:
        text.split(lambda _, piece: [piece])


WHOLE: dict[str, Callable[[], Tokenizer]] = {
    "metaspace": metaspace,
    "llama2": llama2,
    "lookbehind": lambda: bpe(split(r"(?<=a) |\s+|\S+"), CHATML),
    "merged": lambda: pieces(pre_tokenizers.Split(" ", "merged_with_next"), CHATML),
    "one-word": lambda: bpe(GPT2, [AddedToken(".the", single_word=True), AddedToken("the", single_word=True)]),
    "written-in-python": lambda: pieces(pre_tokenizers.PreTokenizer.custom(Plain()), CHATML),
    "strip": lambda: bpe(GPT2, CHATML, normalizers.Strip()),
    "bert-token-over-spaces": lambda: bert(normalizers.BertNormalizer(), AddedToken("Straße a", normalized=True)),
    "accents-gone-pieces": lambda: pieces(GPT2, CHATML, normalizers.StripAccents()),
    "accents-gone-swallowing-pieces": lambda: pieces(
        pre_tokenizers.Split(" ", "isolated"),
        [AddedToken("the", lstrip=True, normalized=True)],
        normalizers.StripAccents(),
    ),
}
