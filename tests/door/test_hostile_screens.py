"""No text of a recording commands a terminal, in any field and by any command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt
from tests.hostile import (
    Forger,
    Shown,
    forged_lines,
    hostile,
    on_terminal,
    raw_characters,
    text_fields,
    with_all_fields,
    with_field,
)
from tests.recordings.record import (
    record_conversation,
    record_failure,
    record_family,
    record_imported,
    record_together,
)
from tokentape.recorder import Record
from tokentape.recorder.events import EVENT_CLASSES, TOKEN_KIND

# Texts that have several lines by nature, and are shown as such.
SEVERAL_LINES = {
    "MessageAdded.content",
    "MessageAdded.text",
    "SystemPromptCached.content",
    "SystemPromptCached.text",
    "TurnFinished.text",
    "TurnStarted.added_text",
}
# The ids and the texts of a prompt are counted: with others, the run does not fit together.
PROMPTS = SEVERAL_LINES | {"SystemPromptCached.sha256", "RunForked.parent_run_id"}
# No blob has a hostile name: with one, a run can be shown and not copied.
PAYLOADS = {f"{kind}.{cls.traits.payload}" for kind, cls in EVENT_CLASSES.items()} | {
    "InterventionRequested.tensor_sha256"
}

NO_TEXT = {TOKEN_KIND, "MemorySampled", "PrefillCompleted"}
FIELDS = text_fields()


@pytest.fixture(scope="module")
def recorded(
    make_lm: Callable[..., tt.LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A database with a run, or more, of every class of events."""
    path = tmp_path_factory.mktemp("hostile") / "recorded.db"
    lm = make_lm("llama", max_position_embeddings=1024)
    with tt.open_store(path) as store:
        # The first, since commands take the newest run.
        record_imported(store)
        record_conversation(lm, store)
        record_failure(lm, store)
        record_family(lm, store)
        record_together(lm, store)
    return path


@pytest.fixture(scope="module")
def runs(recorded: Path) -> dict[str, list[Record]]:
    """The records of these runs, the shortest run first, and the imported conversation last."""
    with tt.open_store(recorded) as store:
        found = {
            each.run_id: list(store.recording(each.run_id).records()) for each in store.summaries()
        }
    return dict(sorted(found.items(), key=lambda each: (is_imported(each[1]), len(each[1]))))


def is_imported(records: list[Record]) -> bool:
    return any(each.kind == "ConversationImported" for each in records)


@pytest.fixture(scope="module")
def one_by_one(recorded: Path, runs: dict[str, list[Record]]) -> Path:
    """A database with a run for each field: only that field is hostile, and not validated."""
    path = shutil.copy(recorded, recorded.with_name("one-by-one.db"))
    with Forger(path) as forger:
        for index, field in enumerate(FIELDS):
            base, records = run_with(runs, field.kind)
            forger.add(run_of(index), base, with_field(records, field))
    return path


@pytest.fixture(scope="module")
def all_at_once(recorded: Path, runs: dict[str, list[Record]]) -> Path:
    """A database with only runs that are hostile wherever their classes accept it."""
    path = shutil.copy(recorded, recorded.with_name("all-at-once.db"))
    with Forger(path) as forger:
        for index, (base, records) in enumerate(runs.items()):
            forger.add(run_of(index), base, with_all_fields(records, PROMPTS | PAYLOADS))
        forger.execute("UPDATE runs SET name = ?, model = ?", hostile("name"), hostile("model"))
    return path


def run_with(runs: dict[str, list[Record]], kind: str) -> tuple[str, list[Record]]:
    return next(each for each in runs.items() if any(r.kind == kind for r in each[1]))


def run_of(index: int) -> str:
    return f"ffffffff-0000-7000-8000-{index:012}"


def check(shown: Shown, *several_lines: str) -> None:
    """Check that a command wrote nothing that commands the terminal, and forged no line."""
    assert raw_characters(shown.text) == set()
    assert forged_lines(shown.text) <= SEVERAL_LINES | set(several_lines)
    assert "unexpected" not in shown.text


def test_the_recorded_runs_have_every_class_of_events(runs: dict[str, list[Record]]) -> None:
    assert {each.kind for records in runs.values() for each in records} == set(EVENT_CLASSES)
    assert len(FIELDS) > 60
    assert {each.kind for each in FIELDS} >= set(EVENT_CLASSES) - NO_TEXT


@pytest.mark.parametrize("command", ["show", "tail --no-follow -n 0", "rebuild"])
def test_each_field_by_itself(one_by_one: Path, command: str) -> None:
    for index in range(len(FIELDS)):
        check(on_terminal(*command.split(), run_of(index), "--store", str(one_by_one)))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp437"])
def test_the_list_of_all_runs(
    all_at_once: Path, runs: dict[str, list[Record]], encoding: str
) -> None:
    list_all = ("list", "--last", "0", "--store", str(all_at_once))
    shown = on_terminal(*list_all, encoding=encoding, columns=4000)

    check(shown)
    assert shown.code == 0
    assert shown.text.count(r"<name\x1b[31;5;7m") == shown.text.count(r"<model\x1b[31;5;7m") >= 8
    # The recorded runs and their hostile copies, each with a name and a model.
    assert shown.text.count("[bold]b[/bold]") == 4 * len(runs) >= 16


READING = (
    "show",
    "show --json",
    "show --turn 1 --tokens",
    "show --turn 1 --json",
    "show --tree",
    "show --tree --json",
    "tail --no-follow -n 0",
    "check",
    "check --json",
    "rebuild",
    "rebuild --json",
    "resume --dry-run",
    "resume --dry-run --json",
    "verify",
    "retrace",
    "regenerate",
    "calibrate",
)


@pytest.mark.parametrize("command", READING)
def test_every_command_that_reads_a_run(
    all_at_once: Path, runs: dict[str, list[Record]], command: str
) -> None:
    for index in range(len(runs)):
        check(on_terminal(*command.split(), run_of(index), "--store", str(all_at_once)))


def test_replays_by_another_model(one_by_one: Path, tiny_folder: Path) -> None:
    words = ("--model", str(tiny_folder), "--store", str(one_by_one), "--no-keep")
    named = set()
    for index, field in enumerate(FIELDS):
        if field.kind in ("RunStarted", "CacheDecided"):
            shown = on_terminal("verify", run_of(index), *words)
            check(shown)
            named |= {field.name} if f"<{field.mark}" in shown.text else set()
    assert named >= {"dtype", "device", "environment", "tokenizer_sha256"}


COPYING = ("pack {} -o {}.tape", "export {} -o {}", "export {} --to jsonl -o {}.jsonl")


@pytest.mark.parametrize("command", COPYING)
def test_copies_and_what_reads_them(
    all_at_once: Path, runs: dict[str, list[Record]], tmp_path: Path, command: str
) -> None:
    made = 0
    for index in range(len(runs)):
        words = [each.format(*[run_of(index)] * 2) for each in command.split()]
        words[-1] = str(tmp_path / f"{hostile('file')[:200].replace('/', '')}{words[-1]}")
        packed = on_terminal(*words, "--store", str(all_at_once))
        check(packed)
        if packed.code:
            continue
        made += 1
        others = [] if words[-1].endswith("l") else ["list", "check", "list --json", "rebuild"]
        for reading in others:
            check(on_terminal(*reading.split(), "--store", words[-1]))
        check(on_terminal("import", words[-1], "--store", str(tmp_path / f"{index}.db")))
    assert made == len(runs)


def test_differences(one_by_one: Path, runs: dict[str, list[Record]]) -> None:
    for index, field in enumerate(FIELDS):
        base, _ = run_with(runs, field.kind)
        check(on_terminal("diff", base, run_of(index), "--store", str(one_by_one)))
    check(on_terminal("diff", "--json", base, run_of(index), "--store", str(one_by_one)))


def test_json_has_the_exact_texts(all_at_once: Path) -> None:
    shown = on_terminal("list", "--json", "--store", str(all_at_once))

    assert raw_characters(shown.text) == set()
    # The terminal shows a spinner first, which is on standard error.
    data = shown.text[shown.text.index("[\n") :]
    assert {each["name"] for each in json.loads(data)} == {hostile("name")}


def test_rows_of_a_stranger(recorded: Path, runs: dict[str, list[Record]], tmp_path: Path) -> None:
    run_ids = list(runs)
    path = shutil.copy(recorded, tmp_path / "rows.db")
    ids = [hostile(f"run {index}") for index in range(len(run_ids))]
    with Forger(path) as forger:
        for old, new in zip(run_ids, ids, strict=True):
            forger.execute("UPDATE runs SET run_id = ? WHERE run_id = ?", new, old)
        forger.execute("UPDATE runs SET status = ?, parent_run_id = ?", hostile("status"), ids[0])
        forger.execute("UPDATE events SET seal = ? WHERE seal IS NOT NULL", hostile("seal"))
    for reading in ("list", "list --json"):
        check(on_terminal(*reading.split(), "--store", str(path)))
    for command in READING[:13]:
        check(on_terminal(*command.split(), ids[0], "--store", str(path)))
    for command in ("close --force", "erase --yes"):
        check(on_terminal(*command.split(), ids[1], "--store", str(path)))
    with Forger(path) as forger:
        forger.execute("UPDATE events SET kind = ?", hostile("kind"))
    for command in READING[:13]:
        check(on_terminal(*command.split(), ids[0], "--store", str(path)))


MISTAKES = (
    ("show", hostile("id"), "--store", "{db}"),
    ("list", "--store", hostile("store")),
    ("list", "--store", f"nosuch://{hostile('url')}"),
    ("import", hostile("path"), "--store", "{db}"),
    ("run", hostile("plan"), "--store", "{db}"),
    ("run", "demo", "--model", hostile("model"), "--store", "{db}"),
    ("plan", hostile("model")),
    ("plan", "--prompt-tokens", hostile("tokens")),
    ("fork", hostile("id"), "--at-turn", "1", "--set", hostile("set"), "--store", "{db}"),
    ("db", "current", "--store", hostile("store")),
    ("diff", hostile("a"), hostile("b"), "--store", "{db}"),
    ("show", "--store", "{db}", f"--{hostile('option')}"),
    ("show", "--store", "{db}", "--turn", hostile("turn")),
    (hostile("command"),),
    ("verify", "--model", hostile("model"), "--store", "{db}"),
    ("verify", "--floor", hostile("floor"), "--store", "{db}"),
    ("verify", "--device-map", "{{" + hostile("map"), "--store", "{db}"),
    ("run", "{yaml}", "--store", "{db}"),
    ("plan", "--protocol", "{yaml}", "{folder}"),
)


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_that_name_a_hostile_text(
    recorded: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(json.dumps({hostile("key"): hostile("value")}))
    folder = tmp_path / hostile("folder")[:100].replace("/", "")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": hostile("type")}))
    places = {"{db}": str(recorded), "{yaml}": str(plan), "{folder}": str(folder)}
    shown = on_terminal(*(places.get(each, each) for each in words))

    check(shown)
    assert shown.code == 2
    assert shown.text


def test_an_id_that_is_not_text_is_not_found(recorded: Path) -> None:
    shown = on_terminal("show", "\udcff\udc9b", "--store", str(recorded))

    assert shown.code == 2
    assert r"has no '\udcff\udc9b" in shown.text
    check(shown)
