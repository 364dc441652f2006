"""The local engine's answers fit the JSON schema that was asked for, whatever the model would rather say.

Most are asked of the default model's stand-in of random weights, which would never say such a thing by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import validate

from tests.small_tokenizers import tekken
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt, Sampling
from tokmagic.errors import ModelError
from tokmagic.prompts.template import json_schema
from tokmagic.runs.generation import Generation
from tokmagic.runs.session import Session
from tokmagic.tokens.tokenizer import Tokenizer

pytestmark = pytest.mark.model

RIVER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "km": {"type": "integer", "minimum": 0, "maximum": 99_999},
        "deep": {"type": "boolean"},
    },
    "required": ["name", "km", "deep"],
    "additionalProperties": False,
}
Ask = Callable[..., Generation]


@pytest.fixture(scope="module")
def session(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    ledger = tmp_path_factory.mktemp("schema") / "ledger.sqlite"
    opened = Session(TokMagic(home=str(tiny_home), ledger=f"sqlite:///{ledger}"))
    yield opened
    opened.close()


@pytest.fixture
def ask(session: Session) -> Ask:
    def run(schema: dict[str, Any], text: str = "Tell me about a river.", **sampling: Any) -> Generation:
        sampling = {"max_tokens": 80, "temperature": 0.0, **sampling}
        return session.generate(
            Prompt((Message("user", text),), Sampling(**sampling, json_schema=json_schema(schema))), "smollm2"
        )

    return run


def test_a_greedy_answer_fits(ask: Ask) -> None:
    assert_fits(ask(RIVER))


@pytest.mark.slow
def test_a_greedy_answer_of_the_default_model_fits(smollm_session: Session) -> None:
    sampling = Sampling(max_tokens=80, temperature=0.0, json_schema=json_schema(RIVER))
    prompt = Prompt((Message("user", "Tell me about a river."),), sampling)
    assert_fits(smollm_session.generate(prompt, "smollm2"))


def assert_fits(generation: Generation) -> None:
    validate(json.loads(generation.text), RIVER)
    assert (generation.status, generation.finish_reason) == ("ok", "stop")
    usage = generation.usage
    assert usage.output_tokens == len(generation.tokens)
    assert usage.output_source == "measured"
    assert generation.record.params["json_schema"] == json_schema(RIVER)


def test_several_sampled_answers_fit_each(ask: Ask) -> None:
    """The mask comes before the other limits: the likeliest token alone may be one that does not fit."""
    generation = ask(RIVER, temperature=1.5, top_k=1, top_p=0.5, seed=3, n=3)
    for choice in generation.choices:
        validate(json.loads(choice.text), RIVER)


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": ["yes", "no"]},
        {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 2, "maxItems": 3},
        {"type": "string", "pattern": "^[a-z]{3}-[0-9]{2}$"},
        {"const": "naïve 漢字 🦊"},
    ],
)
def test_schemas_of_other_kinds(ask: Ask, schema: dict[str, Any]) -> None:
    validate(json.loads(ask(schema).text), schema)


@pytest.mark.slow
def test_a_vocabulary_with_two_spellings_of_bytes(session: Session, tiny_home: Path, tmp_path: Path) -> None:
    """As older transformers convert the default model: bytes are decoded from ``<0xC3>`` first, though none is such."""
    (folder,) = (tiny_home / "models").glob("*SmolLM2*Instruct")
    model = tmp_path / "model"
    model.mkdir()
    for file in folder.iterdir():
        (model / file.name).symlink_to(file.resolve())
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    spec["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, level]}
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    schema = {"const": "naïve 漢字 🦊"}
    prompt = Prompt(
        (Message("user", "Say it."),), Sampling(max_tokens=30, temperature=0, json_schema=json_schema(schema))
    )
    generation = session.generate(prompt, str(model))
    assert json.loads(generation.text) == schema["const"], generation.error


@pytest.mark.slow
def test_the_same_schema_is_replayed_and_another_is_not(ask: Ask) -> None:
    first = ask({"enum": ["yes"]})
    assert ask({"enum": ["yes"]}).status == "cached"
    assert first.text == '"yes"'
    assert ask({"enum": ["no"]}).text == '"no"'


def test_a_schema_that_is_none_is_refused(ask: Ask) -> None:
    generation = ask({"type": "nonsense"})
    assert generation.status == "refused"
    assert "nonsense" in str(generation.error)
    assert "\n" not in str(generation.error)


def test_an_answer_cut_by_its_limit_says_so(ask: Ask) -> None:
    generation = ask(RIVER, max_tokens=3)
    assert (generation.finish_reason, generation.usage.output_tokens) == ("length", 3)


def test_a_vocabulary_of_another_package_fits_too(tmp_path: Path) -> None:
    """Each token of a fitting answer is allowed where it comes, and few others are."""
    import torch

    from tokmagic.engines.local.schema import SchemaTokenizer

    tekken(tmp_path)
    tokenizer = Tokenizer(tmp_path)
    size, end = 300, 2
    schema = json.dumps({"type": "object", "properties": {"km": {"type": "integer"}}, "required": ["km"]})
    constraint = SchemaTokenizer(tokenizer, size, frozenset([end])).constraint(schema, 1, 1)
    seen = [1]
    for token in [*tokenizer.text_ids('{"km": 12}'), end]:
        scores = constraint(torch.tensor([seen]), torch.zeros(1, size))
        allowed = (scores[0] == 0).nonzero().flatten().tolist()
        assert token in allowed
        assert len(allowed) < 40
        seen.append(token)


def test_a_tokenizer_that_does_not_tell_how_tokens_are_spelled_is_refused(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    from tokmagic.engines.local.schema import SchemaTokenizer

    ByT5Tokenizer(extra_ids=0).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match="a JSON schema needs to know how tokens are spelled"):
        SchemaTokenizer(Tokenizer(tmp_path), 259, frozenset([1]))
