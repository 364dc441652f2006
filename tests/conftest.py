"""What every test stands on: no network, no settings of the person who runs it, the real default model once."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.examples import some
from tests.turns import chosen
from tokmagic.core.config import TokMagic
from tokmagic.engines.base import Engine
from tokmagic.ledgers import Ledger
from tokmagic.runs.session import Session

if TYPE_CHECKING:
    from tests.peers.servers import Peer

# A timing is no test: what a machine is busy with must not fail one.
settings.register_profile("tests", deadline=None, max_examples=some(100))
settings.load_profile("tests")

# A shell starts what it runs in the background with interrupts ignored, and some tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent

# Nothing heavy is imported yet: transformers and the settings read these when they are first used.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TOKMAGIC_MODEL_SOURCE": "package",
    "TOKMAGIC_CONFIG": os.devnull,
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
for _setting in (
    *("LEDGER", "PRICES", "MODEL", "API_BASE", "API_KEY_NAME", "SERVER", "TOKENIZER"),
    *("BUDGET_DAY", "HOLD", "ALERT_WEBHOOK", "ENGINE_URL", "STORE_TEXT", "CACHE", "CACHE_BYTES"),
):
    os.environ.pop(f"TOKMAGIC_{_setting}", None)


@pytest.fixture(scope="session")
def model_home() -> Path:
    """A data folder that holds the default model, pulled from the package that carries it."""
    from tokmagic.engines.base import ModelSpec
    from tokmagic.engines.local.store import pull

    home = Path(os.environ.get("TOKMAGIC_TEST_HOME") or ROOT / ".cache" / "test-home")
    pull(ModelSpec("smollm2"), TokMagic(home=str(home)), lambda _doing, _share: None)
    return home


@pytest.fixture(scope="session")
def tiny_home(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder where ``smollm2`` is a stand-in that answers in a moment: see tests/tiny_model.py."""
    from tests.tiny_model import tiny_home

    return tiny_home(tmp_path_factory.mktemp("tiny-home"), model_home)


@pytest.fixture(scope="session")
def tiktoken_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TIKTOKEN_CACHE_DIR with the file of cl100k_base, taken from a package that carries it."""
    from tests.small_tokenizers import tiktoken_folder

    return tiktoken_folder(tmp_path_factory.mktemp("tiktoken"))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty ledger's file: its tables take longer to make than most tests take."""
    path = tmp_path_factory.mktemp("migrated") / "ledger.sqlite"
    Ledger(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, migrated: Path) -> str:
    path = tmp_path / "ledger.sqlite"
    shutil.copy2(migrated, path)
    return f"sqlite:///{path}"


@pytest.fixture
def ledger_url(sqlite_url: str) -> str:
    """An empty ledger's URL; a file with tests for every database overrides it with ``database_url``."""
    return sqlite_url


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    opened = Ledger(ledger_url)
    yield opened
    opened.close()


@pytest.fixture
def make_session(tmp_path: Path, ledger_url: str) -> Iterator[Callable[..., Session]]:
    """Make sessions with their own data folder and ledger; settings by keyword."""
    made: list[Session] = []

    def make(**settings: object) -> Session:
        session = Session(TokMagic(**{"home": str(tmp_path), "ledger": ledger_url, **settings}))
        made.append(session)
        return session

    yield make
    for session in made:
        session.close()


@pytest.fixture(scope="session")
def smollm_session(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session that has the default model loaded, once for all tests that ask for it."""
    ledger = tmp_path_factory.mktemp("smollm") / "ledger.sqlite"
    session = Session(TokMagic(home=str(model_home), ledger=f"sqlite:///{ledger}"))
    session.load("smollm2")
    yield session
    session.close()


@pytest.fixture(scope="session")
def smollm(smollm_session: Session) -> Engine:
    """The default model's engine, loaded."""
    return smollm_session.models.engine("smollm2")


@pytest.fixture(scope="session")
def postgres_address() -> Iterator[str]:
    """One server for all tests, in a folder of its own: another session of pytest shuts this one's to others."""
    from tests.postgres import running_postgres

    with tempfile.TemporaryDirectory(prefix="tokmagic-postgres-") as folder, running_postgres(Path(folder)) as address:
        yield address


@pytest.fixture
def postgres_url(postgres_address: str) -> str:
    """A database of the test's own."""
    from tests.postgres import new_database

    return new_database(postgres_address)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty ledger's URL, on each database that a ledger can be kept in."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture(scope="session")
def smollm_folder(model_home: Path) -> Path:
    """The default model's files."""
    from tokmagic.engines.base import ModelSpec
    from tokmagic.engines.local.store import locate

    located = locate(ModelSpec("smollm2"), TokMagic(home=str(model_home)))
    assert located is not None
    return located.folder


@pytest.fixture(scope="session")
def transformers_serve(smollm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """`transformers serve` with the default model, one for all tests."""
    from tests.peers import servers

    with _outside(servers.transformers_serve(tmp_path_factory.mktemp("transformers"), smollm_folder)) as peer:
        yield peer


@pytest.fixture(scope="session")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """llama.cpp's server with the default model, one for all tests."""
    from tests.peers import servers

    with _outside(servers.llama_cpp(tmp_path_factory.mktemp("llama-cpp"))) as peer:
        yield peer


@pytest.fixture(scope="session")
def mlx_server(smollm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """mlx-lm's server with the default model, one for all tests."""
    from tests.peers import servers

    with _outside(servers.mlx_server(tmp_path_factory.mktemp("mlx"), smollm_folder)) as peer:
        yield peer


@pytest.fixture(scope="session")
def litellm_proxy(
    transformers_serve: Peer, llama_cpp: Peer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    """LiteLLM's proxy before `transformers_serve` and `llama_cpp`, one for all tests."""
    from tests.peers import servers

    with _outside(servers.litellm_proxy(tmp_path_factory.mktemp("litellm"), transformers_serve, llama_cpp)) as peer:
        yield peer


@pytest.fixture(scope="session")
def tokenizing_python() -> Iterator[Path]:
    """The Python of the environment in which tests/peers/tokenizing.py runs."""
    with peer_python("tokenizers") as python:
        yield python


@pytest.fixture(scope="session")
def aiperf() -> Iterator[Any]:
    """tests/peers/aiperf.py, where aiperf is installed."""
    from tests.peers import aiperf, servers

    @contextmanager
    def installed() -> Iterator[Any]:
        servers.interpreter("aiperf")
        yield aiperf

    with _outside(installed()) as module:
        yield module


@contextmanager
def peer_python(name: str) -> Iterator[Path]:
    """The Python of an environment of others; where it is not installed the test is skipped, except in CI."""
    with peer_folder(name) as folder:
        yield folder / "bin" / "python"


@contextmanager
def peer_folder(name: str) -> Iterator[Path]:
    """What others made that ``make peers`` fetched; where it is not there the test is skipped, except in CI."""
    from tests.peers import servers

    @contextmanager
    def installed() -> Iterator[Path]:
        yield servers.environment_of(name)

    with _outside(installed()) as folder:
        yield folder


@contextmanager
def _outside(server: AbstractContextManager[Any]) -> Iterator[Any]:
    """Enter ``server``; where it is not installed the test is skipped, except in CI, where it fails."""
    from tests.peers.servers import NotInstalledError

    with ExitStack() as stack:
        try:
            peer = stack.enter_context(server)
        except NotInstalledError as missing:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(str(missing))
        yield peer


LONGEST = ("browser", "transformers_serve", "smollm_session")
"""Fixtures that take long to start, and whose tests begin first."""

# In these torch or transformers is imported into the worker, which takes seconds.
_OF_TORCH = (
    "engines/test_choices engines/test_conversion engines/test_decoder engines/test_fit engines/test_int8 "
    "engines/test_local_ engines/test_model_files engines/test_passes engines/test_roof engines/test_threads "
    "prices/test_bills project/test_compatibility cli/test_commands runs/test_budgets. runs/test_cache_identity "
    "runs/test_details runs/test_forecast tokens/test_tokenizer. tokens/test_vocabularies tokens/test_chat_template "
    "magics/test_tokens bench/test_plan"
)

TOGETHER = {
    **{f"tests/{begin}": "torch" for begin in _OF_TORCH.split()},
    "tests/ui/": "browser",
    "tests/engines/test_outside_": "servers",
    "tests/project/test_others.py": "servers",
}
"""Files, by how their names begin, that use the same model, browser or servers of others: one worker starts these."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no worker is left with it in the end: the groups, then the models."""
    taken = chosen()
    if taken is not None:
        config.hook.pytest_deselected(items=[it for it in items if not taken.has(it.nodeid)])
        items[:] = [it for it in items if taken.has(it.nodeid)]

    def turn(item: pytest.Item) -> int:
        shared = [name for name in LONGEST if name in getattr(item, "fixturenames", ())]
        if shared:
            return LONGEST.index(shared[0])
        return len(LONGEST) + (item.get_closest_marker("model") is None)

    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.property)
    items.sort(key=turn)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker takes a file at a time, or all files that share what is costly to start.

    xdist's own groups do nothing with pytest 9.2: they change a name that it no longer reads (xdist 3.8.0).
    """
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((group for begin, group in TOGETHER.items() if file.startswith(begin)), file)

    return Files(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed shows what the servers of others that it used had logged."""
    report = yield
    if report.failed and item.get_closest_marker("outside"):
        from tests.peers.servers import Peer

        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Peer):
                report.sections.append((f"log of {value.name}", value.log_tail()))
    return report
