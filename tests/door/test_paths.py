"""A path that begins with `~` names the home folder wherever a path can be given."""

import inspect
import json
import subprocess
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest

import tokentape as tt
from tests.made_models import make_adapter
from tests.store.ssh_keys import make_key
from tokentape.cli import app, db
from tokentape.commands.output_paths import output_path
from tokentape.generation.cache_dir import cache_dir
from tokentape.generation.plans import load_plan
from tokentape.plugin.settings import read_settings
from tokentape.recorder.paths import expand_path
from tokentape.replay.checking.noise_floor import DEFAULT_FLOOR
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]

# The options and arguments of commands that are strings: texts, and names that may be paths, which
# the functions that they are passed to expand. A new path is a `Path` with a parser: `expand_path`,
# or `output_path` for what is written.
TEXTS = {
    *("token", "reply_prefix", "seeds", "batch"),
    *("tags", "remove", "text", "status", "tag", "since", "until", "said"),
    *("name", "message", "system", "changes", "reason", "expect", "ignore"),
    *("attn_implementation", "compute_dtype", "device", "device_map", "dtype", "prompt_tokens"),
    *("quantization", "revision", "token", "endpoint", "ray_address"),
    *("host", "max_body"),
}
NAMES_OR_PATHS = {
    *("store", "other_store", "run_a", "run_b", "model", "plan", "adapter", "protocol"),
    *("run", "runs", "place", "plans", "tools", "report", "path"),
}

SYSTEM = "You are brief. " * 20


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder; the working folder is another, and no `~` is made in it."""
    folder, here = tmp_path / "home", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.chdir(here)
    yield folder
    assert [each.name for each in here.iterdir() if each.name.startswith("~")] == []


def parameters() -> Iterator[tuple[str, str, Any, Any]]:
    """Yield each parameter of a command: command, name, annotation without None, and its infos."""
    for command in (*app.registered_commands, *db.registered_commands):
        assert command.callback is not None
        for name, hint in typing.get_type_hints(command.callback, include_extras=True).items():
            if typing.get_origin(hint) is Annotated:
                inner, *infos = typing.get_args(hint)
                inner = next((each for each in typing.get_args(inner) if each is not list), inner)
                yield command.callback.__name__, name, inner, infos


def test_every_path_of_a_command_is_expanded() -> None:
    for command, name, hint, infos in parameters():
        if hint is Path:
            parser = infos[-1].parser
            assert parser in (expand_path, output_path), f"{command} {name} is not expanded"
        elif typing.get_args(hint) == (str,) or hint is str:
            assert name in TEXTS | NAMES_OR_PATHS, f"{command} {name}: is it a path, or a text?"


def test_a_path_of_another_user_or_without_a_tilde() -> None:
    assert expand_path("runs/~/x") == Path("runs/~/x")
    assert expand_path(Path("$HOME/x")) == Path("$HOME/x")
    assert expand_path("~root") == Path("~root").expanduser()
    with pytest.raises(tt.TokentapeError, match="~nobody-of-that-name is no user's home"):
        expand_path("~nobody-of-that-name/x")


def path_parameters() -> Iterator[str]:
    """Yield the name of every parameter of the public functions and classes that is a path."""
    for name in tt.__all__:
        public = getattr(tt, name)
        if not inspect.isclass(public):
            yield from _paths_of(name, public)
            continue
        for method, function in inspect.getmembers(public, callable):
            if method == "__init__" or not method.startswith("_"):
                yield from _paths_of(name if method == "__init__" else f"{name}.{method}", function)


def _paths_of(name: str, function: Any) -> Iterator[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return
    for each in parameters:
        hint = each.annotation
        if typing.get_origin(hint) is typing.Unpack:
            for field, inner in typing.get_type_hints(typing.get_args(hint)[0]).items():
                if "Path" in str(inner):
                    yield f"{name} {field}"
        elif "Path" in str(hint):
            yield f"{name} {each.name}"


@dataclass
class Given:
    """What the public functions below are called with: a run and its model, and paths."""

    lm: tt.LoadedModel
    store: DatabaseStore
    run_id: str

    @property
    def recording(self) -> tt.Recording:
        return self.store.recording(self.run_id)

    def path(self, name: str) -> Any:
        return f"~/{name}"

    def model(self) -> Any:
        self.lm.model.save_pretrained(Path.home() / "tiny")
        self.lm.tokenizer.save_pretrained(Path.home() / "tiny")
        return self.path("tiny")

    def adapter(self) -> Any:
        self.model()
        make_adapter(Path.home() / "tiny", Path.home() / "adapter")
        return self.path("adapter")

    def protocol(self) -> Any:
        (Path.home() / "plan.yaml").write_text("extends: demo\nname: mine\n")
        return self.path("plan.yaml")

    def short_plan(self) -> Any:
        text = "{name: short, system_prompt: Hi, tasks: [{title: A, turns: [Hello]}]}"
        (Path.home() / "short.yaml").write_text(text)
        return self.path("short.yaml")

    def tools(self) -> Any:
        source = 'import tokentape as tt\n@tt.tool\ndef look() -> int:\n    """Look."""\n'
        (Path.home() / "my_tools.py").write_text(source)
        return self.path("my_tools.py")

    def floor(self) -> Any:
        tt.write_floor(DEFAULT_FLOOR, self.path("floor.json"))
        return self.path("floor.json")

    def signature(self) -> Any:
        make_key(Path.home())
        message = Path.home() / "message"
        message.write_text(tt.text_to_sign(self.store, self.run_id))
        sign = ["ssh-keygen", "-Y", "sign", "-n", "tokentape", "-f", str(Path.home() / "ada")]
        subprocess.run([*sign, str(message)], check=True, capture_output=True)
        return self.path("message.sig")

    def signed(self) -> Any:
        key = make_key(Path.home())
        tt.sign(self.store, self.run_id, key=self.path(key.name))
        return self.path("ada.pub")

    def investigate(self, **settings: Any) -> None:
        with tt.Investigation(
            self.lm, store=self.store, name="x", system_prompt=SYSTEM, **settings
        ):
            pass

    def enter(self, run: tt.Investigation) -> None:
        with run:
            run.generator.clear_cache()

    def describe(self, path: Any) -> None:
        with tt.open_store(Path.home() / "runs.db") as store:
            tt.export_datasette(store, path)

    def seal(self, folder: Any) -> None:
        log = tt.SealingLog(self.store, folder)
        with tt.Investigation(self.lm, store=log, name="x", system_prompt=SYSTEM) as run:
            run.chat("One?", max_new_tokens=2)

    def play(self, tape: Any) -> tt.Playback:
        played = tt.playback(tape, mode="passthrough", model=self.lm)
        with played.investigation(name="x", system_prompt=SYSTEM) as run:
            run.chat("One?", max_new_tokens=2)
        return played

    def enable(self, **settings: Any) -> None:
        tt.ModelManager(self.model()).enable_manual_generation(SYSTEM, **settings)


CALLS: dict[str, Callable[[Given], object]] = {
    "Investigation prefix_folder": lambda g: g.investigate(prefix_folder=g.path("p")),
    "Investigation.resume prefix_folder": lambda g: g.enter(
        tt.Investigation.resume(g.store, g.run_id, g.lm, prefix_folder=g.path("p"))
    ),
    "Investigation.fork prefix_folder": lambda g: g.enter(
        tt.Investigation.fork(g.store, g.run_id, g.lm, at_turn=1, prefix_folder=g.path("p"))
    ),
    "ManualGenerator prefix_folder": lambda g: tt.ManualGenerator(
        g.lm.model, g.lm.tokenizer, prefix_folder=g.path("p")
    ).cache_system_prompt(SYSTEM),
    "ModelManager adapter": lambda g: tt.ModelManager(g.model(), adapter=g.adapter()),
    "ModelManager name": lambda g: tt.ModelManager(g.model()),
    "ModelManager.enable_manual_generation prefix_folder": lambda g: g.enable(
        prefix_folder=g.path("p")
    ),
    "Playback.save path": lambda g: g.play(g.path("new.tape")).save(g.path("other.tape")),
    "SealingLog folder": lambda g: g.seal(g.path("sealed")),
    "check signers": lambda g: tt.check(g.store, g.run_id, signers=g.signed()),
    "export_csv folder": lambda g: tt.export_csv(g.store, g.run_id, g.path("csv")),
    "export_datasette path": lambda g: g.describe(g.path("metadata.json")),
    "export_eval path": lambda g: tt.export_eval([g.recording], g.store, g.path("x.eval")),
    "export_otlp path": lambda g: tt.export_otlp([g.recording], g.store, path=g.path("o.jsonl")),
    "export_scout folder": lambda g: tt.export_scout([g.recording], g.store, g.path("scout")),
    "export_jsonl path": lambda g: tt.export_jsonl([g.recording], g.store, g.path("x.jsonl")),
    "export_parquet folder": lambda g: tt.export_parquet(g.recording, g.store, g.path("s")),
    "import_runs path": lambda g: tt.import_runs(
        tt.pack([g.recording], g.store, g.path("x.tape")) and g.path("x.tape"),
        tt.open_store("sqlite://"),
    ),
    "load_model adapter": lambda g: tt.load_model(g.model(), adapter=g.adapter()),
    "load_model name": lambda g: tt.load_model(g.model()),
    "load_tools path": lambda g: tt.load_tools(g.tools()),
    "open_store where": lambda g: tt.open_store(g.path("runs.db")).close(),
    "plan_memory model": lambda g: tt.plan_memory(g.model(), prompt_tokens=[9]),
    "plan_memory protocol": lambda g: tt.plan_memory(g.model(), protocol=g.protocol()),
    "pack path": lambda g: tt.pack([g.recording], g.store, g.path("x.tape")),
    "playback tape": lambda g: g.play(g.path("new.tape")).save(),
    "read_floor path": lambda g: tt.read_floor(g.floor()),
    "run_many plans": lambda g: tt.run_many(g.short_plan(), g.lm, g.store),
    "sign key": lambda g: g.signed(),
    "sign signature": lambda g: tt.sign(g.store, g.run_id, signature=g.signature()),
    "write_floor path": lambda g: g.floor(),
}


def test_every_public_path_has_a_call_here() -> None:
    assert set(path_parameters()) == set(CALLS)


@pytest.fixture(scope="module")
def given(make_lm: Callable[..., tt.LoadedModel]) -> Iterator[Given]:
    lm = make_lm("llama")
    with tt.open_store("sqlite://") as store:
        assert isinstance(store, DatabaseStore)
        with tt.Investigation(lm, store=store, name="x", system_prompt=SYSTEM) as run:
            run.chat("One?", max_new_tokens=2)
        yield Given(lm, store, run.run_id)


@pytest.mark.parametrize("name", CALLS)
def test_every_public_function_takes_a_path_from_the_home_folder(
    name: str, home: Path, given: Given
) -> None:
    if name.startswith("export_scout"):
        pytest.importorskip("inspect_scout", reason="the extra `scout` has it")
    CALLS[name](given)

    # A resumed run restores its system prompt, which is not written to the prefix folder again.
    assert list(home.iterdir()) or "Investigation." in name


def test_a_url_names_the_home_folder(home: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    tt.open_store("sqlite:///~/runs.db").close()
    monkeypatch.setenv("TOKENTAPE_DATABASE_URL", "~/runs.db")

    assert [each.name for each in home.glob("*.db")] == ["runs.db"]
    assert json.loads(cli("list", "--json")[1]) == []
    assert cli("db", "current", "--store=sqlite:///~/runs.db")[0] == 0
    assert str(home / "none.db") in cli("list", "--store=~/none.db")[2]
    assert str(home / "none.db") in cli("diff", "~/none.db#1", "~/none.db#2")[2]


def test_a_cache_folder_and_a_plan_name_the_home_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
    (home / "text.md").write_text("Read me.")
    plan = "extends: demo\nname: mine\nbackground:\n  document: text.md\n  when: before_first_task"
    (home / "plan.yaml").write_text(plan)

    assert cache_dir() == home / "cache" / "tokentape"
    assert "Read me." in str(load_plan("~/plan.yaml").described())


@pytest.mark.parametrize("where", ["option", "ini"])
def test_the_paths_of_the_pytest_plugin_name_the_home_folder(where: str, home: Path) -> None:
    folder = Path.cwd()
    (home / "tapes").mkdir()
    (home / "tapes" / "x.tape").touch()
    (home / "floor.json").touch()
    given: dict[str, Any] = {"tapes": ["~/tapes"], "tape_floor": "~/floor.json"}
    joined: dict[str, Any] = given | {"tapes": [folder / "~/tapes"]}
    options, ini = (given, {}) if where == "option" else ({}, joined)
    config: Any = SimpleNamespace(
        getoption=options.get,
        getini=lambda name: "verify" if name == "tape_mode" else ini.get(name, ""),
        invocation_params=SimpleNamespace(dir=folder),
        inipath=folder / "pytest.ini",
    )
    settings = read_settings(config)

    assert settings.roots == (home / "tapes",)
    assert settings.floor == str(home / "floor.json")


@pytest.mark.parametrize(
    "command",
    [
        ("pack", "x", "-o", "-"),
        ("export", "--to", "jsonl", "-o", "-"),
        ("export", "--to", "csv", "--output=-"),
        ("verify", "--junit", "-"),
        ("verify", "--html", "-"),
        ("calibrate", "--output", "-"),
    ],
)
def test_a_file_is_not_written_to_a_dash(command: tuple[str, ...], home: Path, cli: Cli) -> None:
    code, printed, message = cli(*command)

    assert (code, printed) == (2, "")
    assert "files are not written to standard output" in message
    assert list(Path().iterdir()) == []


def test_a_dash_in_a_folder_is_a_name() -> None:
    assert output_path("./-") == Path("-")
