"""The default model at a server: placed there by the settings alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import ANSWER, USAGE, Endpoint, serve, streams
from tokmagic.cli import main
from tokmagic.core.config import TokMagic
from tokmagic.core.prompt import Message, Prompt
from tokmagic.engines.base import ModelSpec
from tokmagic.engines.registry import Models
from tokmagic.engines.scripted import Script, ScriptedEngine
from tokmagic.errors import UsageError
from tokmagic.health import Probe, doctor
from tokmagic.runs import api
from tokmagic.runs.session import Session

ASK = Prompt((Message("user", "Hi"),))
Make = Callable[..., Session]


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with serve(streams(ANSWER)) as endpoint:
        yield endpoint


def test_a_run_without_a_model_goes_to_the_server(make_session: Make, server: Endpoint) -> None:
    session = make_session(model="acme/large", api_base=server.url, server="vllm")
    generation = session.generate(ASK).raise_for_status()
    assert (generation.model, generation.record.info.server) == ("acme/large", server.url)
    assert generation.usage.input_tokens == USAGE["prompt_tokens"]
    assert server.last.body["model"] == "acme/large"
    assert server.last.body["stream_options"]["continuous_usage_stats"] is True, "the kind of server is known"


def test_other_models_stay_where_they_are(make_session: Make, server: Endpoint) -> None:
    session = make_session(model="acme/large", api_base=server.url)
    assert session.generate(ASK, "scripted").record.info.engine == "scripted"
    assert server.asked == []
    assert dict(session.models)["acme/large"].kind == "endpoint"
    assert dict(session.models)["smollm2"].kind == "local"


def test_what_a_person_adds_under_the_name_stays(server: Endpoint) -> None:
    models = Models(TokMagic(model="mine", api_base=server.url))
    assert models.spec(models.current).api_base == server.url
    models.add("mine", ModelSpec("scripted"))
    assert models.current == "mine"
    assert models.spec("mine").kind == "scripted"


def test_a_changed_setting_counts_from_then_on(server: Endpoint) -> None:
    settings = TokMagic(model="mine", api_base=server.url)
    models = Models(settings)
    assert models.engine().info.server == server.url
    settings.api_base = "http://127.0.0.1:1/v1"
    assert models.engine().info.server == "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"api_base": "http://127.0.0.1:1/v1"}, "TOKMAGIC_API_BASE needs TOKMAGIC_MODEL"),
        ({"model": "m", "api_base": "no address"}, "no address"),
        ({"model": "m", "api_base": "http://127.0.0.1:1/v1", "server": "vlm"}, "did you mean vllm"),
        ({"model": "m", "api_key_name": "sk-very-secret"}, "takes the name of an environment variable"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line(given: dict[str, str], says: str) -> None:
    models = Models(TokMagic(**given))
    with pytest.raises(UsageError) as caught:
        _ = models.current
    assert says in str(caught.value)
    assert "sk-very-secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [name for name, _spec in models] == ["smollm2"], "the list is still shown"
    assert models.resolve("scripted") == "scripted", "and other models still run"


def test_the_doctor_and_pull_know_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], server: Endpoint
) -> None:
    settings = TokMagic(home=str(tmp_path), model="acme/large", api_base=server.url)
    broken = doctor(settings, Probe(problem="libcudnn.so.9 is missing"))
    assert broken.can_generate, "the server needs no torch here"
    (model,) = [finding for finding in broken.findings if finding.name == "model"]
    assert model.message == f"acme/large, at {server.url}"
    monkeypatch.setattr(api, "_session", None)
    monkeypatch.setenv("TOKMAGIC_MODEL", "acme/large")
    monkeypatch.setenv("TOKMAGIC_API_BASE", server.url)
    assert main(["pull"]) == 2
    assert "runs at a server" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["m" * 256, "org/" + "m" * 5000, "a/" * 300 + "m", "m" * 300 + ":free"])
def test_a_name_that_is_too_long_for_a_file_is_run_at_a_server(make_session: Make, server: Endpoint, name: str) -> None:
    session = make_session()
    session.models.add("long", ModelSpec(name, api_base=server.url))
    generation = session.generate(ASK, "long")
    assert (generation.status, generation.finish_reason) == ("ok", "stop")
    assert session.ledger().runs()[0].info.model_id == name


def test_an_open_engine_takes_the_place_of_another_of_its_name() -> None:
    models = Models(TokMagic())
    closed = []

    class Closing(ScriptedEngine):
        def close(self) -> None:
            closed.append(self)

    first, second = (Closing("mine", [Script.of_text([" a"])]) for _ in range(2))
    models.register(first, ModelSpec("scripted"))
    assert models.engine("mine") is first
    models.register(second, ModelSpec("scripted"))
    assert models.engine("mine") is second
    assert closed == [first]
