"""Fixtures of all tests: tiny random models, stores, a PostgreSQL server, the command line."""

import copy
import functools
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
import typer.main
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from transformers import PreTrainedTokenizerFast

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tests.postgres import own_server
from tests.samplers import GREEDY, SAMPLED
from tokentape.store import DatabaseStore

# A busy machine is not a fault.
hypothesis.settings.register_profile("tokentape", deadline=None)
hypothesis.settings.load_profile("tokentape")


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_interrupts() -> None:
    """Handle SIGINT: a shell starts background jobs with it ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once() -> Iterator[None]:
    """Keep what typer builds of the command line, which takes 10 ms, from one call to the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def make_lm(tokenizer: PreTrainedTokenizerFast) -> Callable[..., tt.LoadedModel]:
    """Return a function that makes a tiny model of a family; see `benchmarks/tiny_models.py`."""

    def make(family: str = "llama", **settings: Any) -> tt.LoadedModel:
        return tiny_model(family, tokenizer, **settings)

    return make


@pytest.fixture
def lm(make_lm: Callable[..., tt.LoadedModel]) -> tt.LoadedModel:
    """Return a new tiny Llama, which the test may change."""
    return make_lm("llama")


@pytest.fixture(scope="session")
def tiny_folder(
    make_lm: Callable[..., tt.LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder of a saved tiny Llama, for code that loads a model by name."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny = make_lm("llama")
    tiny.model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def demo_lm() -> tt.LoadedModel:
    return tt.load_model("smollm2-demo")


@pytest.fixture
def store() -> Iterator[DatabaseStore]:
    with tt.open_store("sqlite://") as opened:
        yield opened


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    with own_server() as server:
        yield make_url(server.get_uri()).set(drivername="postgresql+psycopg")


@pytest.fixture(scope="session")
def make_postgres_url(postgres_server: URL) -> Callable[[], str]:
    """Return a function that creates an empty database and returns its URL."""

    def make() -> str:
        name = f"test_{uuid.uuid4().hex}"
        engine = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return postgres_server.set(database=name).render_as_string(hide_password=False)

    return make


@pytest.fixture
def postgres_url(make_postgres_url: Callable[[], str]) -> str:
    """Return the URL of a new, empty database."""
    return make_postgres_url()


@pytest.fixture
def altered() -> Callable[[tt.LoadedModel, Callable[[Any], None]], tt.LoadedModel]:
    """Return a function that copies a model and changes the copy."""

    def alter(lm: tt.LoadedModel, change: Callable[[Any], None]) -> tt.LoadedModel:
        model = copy.deepcopy(lm.model)
        with torch.no_grad():
            change(model)
        return tt.LoadedModel(model, lm.tokenizer, lm.name)

    return alter


@pytest.fixture(scope="session")
def record() -> Callable[..., tt.Recording]:
    """Return a function that records turns: greedy, sampled, greedy with a penalty, sampled."""

    def run(lm: tt.LoadedModel, store: DatabaseStore, *, tokens: int = 12) -> tt.Recording:
        sampled = SAMPLED | {"top_p": 0.9}
        settings = (GREEDY, sampled, GREEDY | {"repetition_penalty": 1.2}, sampled)
        tools = tt.default_tools(lm)
        layer = next(iter(dict(lm.model.named_parameters())))
        call = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": layer})
        with tt.Investigation(
            lm, store=store, name="test", system_prompt="Be kind and brief.", tools=tools, seed=7
        ) as investigation:
            for index, chosen in enumerate(settings):
                investigation.chat(
                    f"What of layer {index}?",
                    tool_calls=[call] if index == 1 else [],
                    max_new_tokens=tokens,
                    **chosen,
                )
        return store.recording(investigation.run_id)

    return run


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command line in this process.

    It returns the exit code, standard output and standard error.
    """
    from tokentape.cli import main

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["tokentape", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        out, err = capsys.readouterr()
        return int(exited.value.code or 0), out, err

    return run
