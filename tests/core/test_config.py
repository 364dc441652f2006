"""Settings: what wins over what, and one line for what cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from traitlets import TraitError
from traitlets.config import Config

from tokmagic.core.config import DEFAULT_MODEL, REPRODUCING, TokMagic, config_file, describe
from tokmagic.errors import UsageError

NAMES = {
    "home",
    "ledger",
    "model",
    "api_base",
    "api_key_name",
    "server",
    "tokenizer",
    "model_source",
    "engine_url",
    "prices",
    "store_text",
    "budget_day",
    "hold",
    "alert_webhook",
    "cache",
    "cache_bytes",
    "connect_timeout_s",
    "first_token_timeout_s",
    "silence_timeout_s",
    "attempts",
    "notebook_metadata",
    "llamacpp_threads",
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty settings file, and no settings in the environment."""
    for name in NAMES:
        monkeypatch.delenv(f"TOKMAGIC_{name.upper()}", raising=False)
    path = tmp_path / "config.toml"
    path.touch()
    monkeypatch.setenv("TOKMAGIC_CONFIG", str(path))
    return path


def test_the_documented_list_is_the_list_of_settings() -> None:
    assert {name for name, _ in describe()} == NAMES
    for name, text in describe():
        assert f"TOKMAGIC_{name.upper()}" in text
        assert text.endswith(".")


def test_defaults(file: Path) -> None:
    settings = TokMagic()
    assert settings.home_path.name == "tokmagic"
    assert settings.ledger == f"sqlite:///{settings.home_path}/ledger.sqlite"
    assert (settings.model, settings.model_source) == (DEFAULT_MODEL, "auto")
    assert (settings.engine_url, settings.prices, settings.budget_day) == ("", "", "")
    assert (settings.store_text, settings.notebook_metadata) == (True, True)
    assert (settings.cache, settings.cache_bytes) == (True, 256 * 2**20)


def test_setting_wins_over_environment_over_file_over_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TokMagic().model == DEFAULT_MODEL
    file.write_text('model = "from-file"\n', encoding="utf-8")
    moved = file.rename(file.with_name("other.toml"))
    monkeypatch.setenv("TOKMAGIC_CONFIG", str(moved))
    assert TokMagic().model == "from-file"
    monkeypatch.setenv("TOKMAGIC_MODEL", "from-environment")
    assert TokMagic().model == "from-environment"
    assert TokMagic(model="given").model == "given"
    settings = TokMagic()
    settings.model = "set"
    assert settings.model == "set"
    monkeypatch.setenv("TOKMAGIC_MODEL", "")
    assert TokMagic().model == "from-file", "an empty variable is none"


def test_every_setting_can_come_from_the_environment(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {name: f"value-{name}" for name in NAMES} | {"model_source": "hub", "home": str(tmp_path)}
    given |= {
        "hold": "p95",
        "alert_webhook": "https://h/x",
        "store_text": "off",
        "notebook_metadata": "off",
        "cache": "off",
        "cache_bytes": "1_000",
    }
    given |= dict.fromkeys(
        ("connect_timeout_s", "first_token_timeout_s", "silence_timeout_s", "attempts", "llamacpp_threads"), "7"
    )
    for name, text in given.items():
        monkeypatch.setenv(f"TOKMAGIC_{name.upper()}", text)
    settings = TokMagic()
    for name, text in given.items():
        expected = {"off": False, "1_000": 1000, "7": 7}.get(text, text)
        assert getattr(settings, name) == expected, name


def test_blanks_around_a_value_are_not_part_of_it(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, tuple[str, object]] = {
        "home": (str(tmp_path), str(tmp_path)),
        "ledger": ("sqlite:////x/ledger.sqlite", "sqlite:////x/ledger.sqlite"),
        "model": ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        "model_source": ("hub", "hub"),
        "api_base": ("https://h/v1", "https://h/v1"),
        "prices": ("/x/prices.toml", "/x/prices.toml"),
        "alert_webhook": ("https://h/x", "https://h/x"),
        "hold": ("p95", "p95"),
        "budget_day": ("5", "5"),
        "cache": ("off", False),
        "attempts": ("7", 7),
    }
    for name, (text, _) in given.items():
        monkeypatch.setenv(f"TOKMAGIC_{name.upper()}", f" {text}\t")
    monkeypatch.setenv("TOKMAGIC_SERVER", "  ")
    monkeypatch.setenv("TOKMAGIC_CONFIG", f"{file} ")
    file.write_text('server = " vllm "', encoding="utf-8")
    settings = TokMagic()
    assert {name: getattr(settings, name) for name in given} == {name: value for name, (_, value) in given.items()}
    assert settings.server == "vllm", "a variable of blanks is an empty one"


def test_every_setting_can_come_from_the_file(file: Path, tmp_path: Path) -> None:
    given = {name: f"value-{name}" for name in NAMES} | {"model_source": "package", "home": str(tmp_path)}
    given |= {"hold": "p95", "alert_webhook": "https://h/x"}
    seconds = dict.fromkeys(
        ("connect_timeout_s", "first_token_timeout_s", "silence_timeout_s", "attempts", "llamacpp_threads"), "5"
    )
    others = {**seconds, "store_text": "false", "notebook_metadata": '"no"', "cache": '"off"', "cache_bytes": "5"}
    lines = [f'{name} = "{text}"' for name, text in given.items() if name not in others]
    lines += [f"{name} = {value}" for name, value in others.items()]
    file.write_text("\n".join(lines), encoding="utf-8")
    settings = TokMagic()
    for name, text in given.items():
        expected = text if name not in others else 5 if others[name] == "5" else False
        assert getattr(settings, name) == expected, name


def test_the_home_folder_moves_the_ledger_and_is_expanded(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert TokMagic(home="~/data").ledger == f"sqlite:///{tmp_path}/data/ledger.sqlite"
    monkeypatch.setenv("TOKMAGIC_HOME", "~/elsewhere")
    settings = TokMagic()
    assert settings.home_path == tmp_path / "elsewhere"
    assert settings.ledger == f"sqlite:///{tmp_path}/elsewhere/ledger.sqlite"


def test_texts_are_kept_at_home_but_not_in_a_teams_database(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TokMagic(ledger="sqlite:////tmp/x.sqlite").store_text is True
    assert TokMagic(ledger="postgresql://db/team").store_text is False
    monkeypatch.setenv("TOKMAGIC_STORE_TEXT", "on")
    assert TokMagic(ledger="postgresql://db/team").store_text is True


def test_what_follows_from_another_setting_follows_it_later_too(file: Path, tmp_path: Path) -> None:
    """As %config sets them in a kernel that has run prompts: a person's texts went into the team's database."""
    for choose in (setattr, lambda it, name, value: it.update_config(Config({"TokMagic": {name: value}}))):
        settings = TokMagic(home=str(tmp_path))
        assert (settings.store_text, settings.ledger) == (True, f"sqlite:///{tmp_path}/ledger.sqlite")
        choose(settings, "home", str(tmp_path / "other"))
        assert settings.ledger == f"sqlite:///{tmp_path}/other/ledger.sqlite"
        for ledger, kept in (("postgresql+psycopg://h/d", False), ("sqlite:////a", True), ("postgresql://h/d", False)):
            choose(settings, "ledger", ledger)
            assert settings.store_text is kept
        choose(settings, "home", str(tmp_path))
        assert settings.ledger == "postgresql://h/d", "which was chosen"
        for kept in (False, True):
            choose(settings, "store_text", kept)
            for ledger in ("sqlite:////b", "postgresql://h/e"):
                choose(settings, "ledger", ledger)
                assert settings.store_text is kept, "which was chosen"
        same = TokMagic(home=str(tmp_path))
        assert same.store_text is True
        choose(same, "store_text", True)
        choose(same, "ledger", "postgresql://h/d")
        assert same.store_text is True, "as it was chosen, though it was so before"


def test_a_reproduction_has_a_ledger_of_its_own_whatever_is_chosen(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKMAGIC_LEDGER", "sqlite:////tmp/theirs.sqlite")
    monkeypatch.setenv(REPRODUCING, "sqlite:////tmp/own.sqlite")
    settings = TokMagic()
    assert settings.ledger == TokMagic(ledger="sqlite://").ledger == "sqlite:////tmp/own.sqlite"
    settings.ledger = "sqlite:////tmp/chosen.sqlite"
    assert settings.ledger == "sqlite:////tmp/own.sqlite"


WORDS = [("on", True), ("ON", True), (" yes ", True), ("1", True), ("true", True)]
WORDS += [("off", False), ("Off", False), ("no", False), ("0", False), ("false", False)]


@pytest.mark.parametrize(("word", "value"), WORDS)
def test_on_and_off(file: Path, monkeypatch: pytest.MonkeyPatch, word: str, value: bool) -> None:
    monkeypatch.setenv("TOKMAGIC_STORE_TEXT", word)
    monkeypatch.setenv("TOKMAGIC_NOTEBOOK_METADATA", word)
    monkeypatch.setenv("TOKMAGIC_CACHE", word)
    settings = TokMagic()
    assert (settings.store_text, settings.notebook_metadata, settings.cache) == (value, value, value)


@pytest.mark.parametrize("name", ["store_text", "notebook_metadata", "cache"])
def test_neither_on_nor_off_is_refused_by_its_name(file: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"TOKMAGIC_{name.upper()}", "maybe")
    settings = TokMagic()
    with pytest.raises(UsageError, match=f"^TOKMAGIC_{name.upper()} is 'maybe'; use on or off$"):
        getattr(settings, name)


def test_a_wrong_model_source_is_refused_by_its_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKMAGIC_MODEL_SOURCE", "moon")
    settings = TokMagic()
    with pytest.raises(UsageError, match=r"^TOKMAGIC_MODEL_SOURCE is 'moon'; use auto, hub or package$"):
        _ = settings.model_source
    with pytest.raises(TraitError, match="model_source"):
        TokMagic(model_source="moon")


@pytest.mark.parametrize(("name", "value"), [("home", ""), ("store_text", "yes"), ("model", 3), ("cache_bytes", -1)])
def test_a_value_of_the_wrong_kind_is_refused(file: Path, name: str, value: object) -> None:
    with pytest.raises(TraitError, match=name):
        TokMagic(**{name: value})


FILES = [
    ("cache_bytes = 1.5", "cache_bytes is 1.5; give a whole number"),
    ("budget_day = 5", 'budget_day is 5; give a string, as in budget_day = "…"'),
    ("modle = 'x'", "unknown setting modle (did you mean model?); known: "),
    ("model = ", "Invalid value"),
    ("model = 'x'\nmodel = 'y'", "Cannot overwrite"),
    ("[TokMagic]\nmodel = 'x'", "unknown setting TokMagic"),
]


@pytest.mark.parametrize(("content", "says"), FILES, ids=[says for _, says in FILES])
def test_a_bad_file_gets_one_line_that_names_it(file: Path, content: str, says: str) -> None:
    file.write_text(content, encoding="utf-8")
    settings = TokMagic()
    with pytest.raises(UsageError) as caught:
        _ = settings.model
    assert str(caught.value).startswith(str(file))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_or_a_folder_is_named(file: Path) -> None:
    file.write_bytes(b"model = '\xff'")
    settings = TokMagic()
    with pytest.raises(UsageError, match="cannot be read"):
        _ = settings.model
    file.unlink()
    folder = file.parent / "folder.toml"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKMAGIC_CONFIG", str(folder))
        with pytest.raises(UsageError, match=r"folder\.toml cannot be read"):
            _ = TokMagic().model


def test_a_file_that_is_named_and_not_there_is_told(file: Path) -> None:
    """Budgets may stand in it: nobody must take them for set."""
    file.unlink()
    with pytest.raises(UsageError, match=r"TOKMAGIC_CONFIG names .*config\.toml, which is not there"):
        _ = TokMagic().budget_day


@pytest.mark.parametrize(("line", "says"), [("model = ['a', 'b']", "give a string"), ("store_text = 3", "give true")])
def test_a_file_of_the_wrong_kinds_is_refused_in_one_line(file: Path, line: str, says: str) -> None:
    file.write_text(line, encoding="utf-8")
    with pytest.raises(UsageError, match=f"config.toml: {line.split()[0]} is .*{says}"):
        _ = TokMagic().model


def test_the_file_is_looked_for_in_the_configuration_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config_file() == file
    monkeypatch.delenv("TOKMAGIC_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert config_file().name == "config.toml"
    assert config_file().parent.name == "tokmagic"
