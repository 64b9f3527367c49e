"""The examples of docs/analysis.md run, and pandas and SQL give equal answers."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from sqlalchemy import text

import tokentape as tt
from tests.replay.test_rounds import CALL, opening
from tests.store.duckdb_versions import duckdb_of_tokens
from tokentape.store import DatabaseStore
from tokentape.store.frames.columns import FRAMES, MEANING

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "analysis.md").read_text(encoding="utf-8")
SAMPLED = {"do_sample": True, "temperature": 0.8, "top_p": 0.9}


class Question(NamedTuple):
    asked: str
    python: str
    sql: str


def blocks(language: str, page: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def questions() -> list[Question]:
    sections = re.findall(r"^### ([^\n]*\?)\n(.*?)(?=^##)", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [
        Question(asked, *blocks("python", body), *blocks("sql", body)) for asked, body in sections
    ]


def investigate(lm: tt.LoadedModel, store: DatabaseStore, seed: int) -> None:
    """Six turns of a protocol: three with tools, four sampled, the fourth with an intervention.

    In the first one the model calls a tool, so it has two rounds.
    """
    tools = tt.default_tools(lm)
    layer = next(iter(dict(lm.model.named_parameters())))
    look = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": layer})
    with tt.Investigation(
        lm,
        store=store,
        name="probe",
        system_prompt="Be brief.",
        tools=tools,
        seed=seed,
        plan={"name": "norms"},
    ) as run:
        called = run.chat(
            "Call.", max_new_tokens=190, logits_processor=opening(lm, CALL), **SAMPLED
        )
        assert len(called.rounds) == 2
        run.chat("What is there?", max_new_tokens=25, do_sample=False)
        run.chat("Look at it.", tool_calls=[look], max_new_tokens=25, **SAMPLED)
        run.chat("And now?", max_new_tokens=20, do_sample=True, temperature=1.5, reply_prefix="Q#")
        run.intervene(tt.Intervention.scale("louder", [1], 1.5))
        run.chat("Twice.", tool_calls=[look, look], max_new_tokens=20, do_sample=False)
        run.withdraw("louder")
        run.chat("Go on.", max_new_tokens=20, **SAMPLED)


def fork(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    """Record a run of another protocol, and a fork of it."""
    settings = {"store": store, "name": "forked", "seed": 9, "plan": {"name": "other"}}
    with tt.Investigation(lm, system_prompt="Be brief.", **settings) as run:
        run.chat("What is there?", max_new_tokens=6, do_sample=False)
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=1, seed=10) as forked:
        forked.chat("And here?", max_new_tokens=8, do_sample=True)


@pytest.fixture(scope="module")
def folder(
    make_lm: Callable[..., tt.LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("analysis")
    with tt.open_store(folder / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        fork(make_lm("llama"), store)
        for seed in (3, 4):
            investigate(make_lm("llama"), store, seed)
    return folder


@pytest.fixture
def opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Return the names that the page defines in "Open a recording"."""
    monkeypatch.chdir(folder)
    opening = PAGE.partition("## Thirteen questions")[0]
    names: dict[str, Any] = {}
    for block in blocks("python", opening):
        exec(compile(block, "analysis.md", "exec"), names)
    yield names
    names["store"].close()
    names["database"].close()


def assert_alike(answer: pd.DataFrame, from_sql: pd.DataFrame) -> None:
    assert list(answer.columns) == list(from_sql.columns)
    assert len(answer) == len(from_sql) > 0
    for name in answer.columns:
        ours, theirs = (each[name].astype(object).tolist() for each in (answer, from_sql))
        if isinstance(ours[0], str):
            assert ours == theirs
        else:
            assert ours == pytest.approx(theirs, rel=1e-9, nan_ok=True), name


def test_there_are_thirteen_questions() -> None:
    assert len(questions()) == 13


@pytest.mark.parametrize("question", questions(), ids=lambda each: each.asked)
def test_pandas_and_sqlite_give_equal_answers(opened: dict[str, Any], question: Question) -> None:
    exec(compile(question.python, question.asked, "exec"), opened)

    assert_alike(opened["answer"], opened["ask"](question.sql))


def test_pandas_and_postgresql_give_equal_answers(
    postgres_url: str, folder: Path, opened: dict[str, Any]
) -> None:
    with tt.open_store(postgres_url) as store:
        assert isinstance(store, DatabaseStore)
        for run_id in opened["runs"]["run_id"]:
            store.import_run(opened["store"].recording(run_id), opened["store"])
        ids = {name: opened[name] for name in ("run_id", "other_id")}
        with store._engine.connect() as connection:
            for question in questions():
                exec(compile(question.python, question.asked, "exec"), opened)
                wanted = {name: ids[name] for name in re.findall(r":(\w+_id)", question.sql)}
                from_sql = pd.read_sql(text(question.sql), connection, params=wanted)

                assert_alike(opened["answer"], from_sql)


def test_every_question_has_a_nonempty_answer(opened: dict[str, Any]) -> None:
    answers = {}
    for question in questions():
        exec(compile(question.python, question.asked, "exec"), opened)
        answers[question.asked.split()[0] + question.asked.split()[-1]] = opened["answer"]

    assert answers["Howmuch?"]["departures"].sum() > 0
    assert answers["Howresult?"]["after_tool"].tolist() == [False, True]
    assert answers["Howintervention?"]["period"].tolist() == ["after", "before", "during"]
    assert answers["Whichseeds?"]["runs"].tolist() == [2, 1]
    assert answers["Whichseeds?"]["spread"].iloc[0] > 0
    assert answers["Whichcontext?"]["role"].tolist() == ["assistant", "system", "tool", "user"]
    assert answers["Wheresure?"]["text"].str.len().gt(0).all()
    assert answers["Whatdo?"]["raised"].sum() > 0
    assert answers["Wheresure?"]["entropy"].is_monotonic_decreasing


def test_a_turn_of_two_rounds_is_counted_once(opened: dict[str, Any]) -> None:
    answers = {}
    for question in questions():
        exec(compile(question.python, question.asked, "exec"), opened)
        answers[question.asked] = opened["answer"]
    turns, tokens, tools = (opened[name] for name in ("turns", "tokens", "tools"))
    counts = tokens[~tokens["forced"]].groupby("turn").size()
    sampled = turns.loc[turns["do_sample"], "turn"].unique()
    first_round = turns["first_step"].iloc[1]
    early = answers["How did surprise change after a tool result?"].set_index("after_tool")
    left = answers["How often did sampling leave the likeliest token, and by how much?"]
    settings = answers["What did temperature and top-p do?"]
    costs = answers["Which tool results cost most context?"]
    speed = answers["How did speed change with the length of the context?"]

    assert (turns["turn"] == 1).sum() == 2
    assert first_round > 10
    assert tokens["forced"].sum() == 2
    assert len(opened["of_rounds"]) == len(tokens) - 2
    assert early["tokens"].sum() == 10 * len(turns) - 2
    assert early.loc[True, "tokens"] == 10 * (turns["tool_results"] > 0).sum()
    assert left["tokens"].tolist() == counts[sampled].tolist()
    assert settings["turn"].tolist() == sampled.tolist()
    assert len(costs) == len(tools) == 4
    assert costs["share"].between(0, 1).all()
    assert speed["tokens"].sum() == len(tokens) - len(turns) - 1


@duckdb_of_tokens
def test_sealed_files_are_read_by_pandas_duckdb_and_polars_alone(opened: dict[str, Any]) -> None:
    section = PAGE.partition("## Sealed files")[2].partition("## Columns")[0]
    shown = blocks("python", section)
    store = opened["store"]
    tt.export_parquet(store.recording(opened["other_id"]), store, "sealed")
    for block in shown:
        exec(compile(block, "analysis.md", "exec"), opened)
    tokens = opened["tokens"]
    surprise = -tokens["logprob"].astype("float64").groupby(tokens["turn"]).mean()
    expected = pytest.approx(surprise.tolist(), rel=1e-12)

    assert len(shown) == 3
    assert opened["in_pandas"].tolist() == expected
    assert [each for _, each in opened["in_duckdb"]] == expected
    assert opened["in_polars"]["logprob"].to_list() == expected
    texts = opened["tokens"][["turn", "step", "token_id", "text"]].to_numpy().tolist()
    assert [[*each] for each in opened["with_texts"]] == texts
    ranked = opened["candidates"][["turn", "step", "logprob"]].to_numpy().tolist()
    assert [[turn, step, logprob] for turn, step, _, logprob in opened["ranked"]] == ranked


def test_the_plots_of_the_page_are_drawn_and_saved(opened: dict[str, Any]) -> None:
    section = PAGE.partition("## Plots")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    for block in blocks("python", section):
        exec(compile(block, "analysis.md", "exec"), opened)
    legend = opened["ax"].get_legend()

    assert sorted(listed) == sorted(tt.plots.__all__)
    assert Path("surprise.png").read_bytes().startswith(b"\x89PNG")
    assert Path("cache.svg").stat().st_size > 10_000
    assert [each.get_text() for each in legend.get_texts()] == ["norms: 2 runs", "other: 1 run"]
    assert opened["costs"].get_title(loc="left").startswith("Computed tokens per turn, median and")


ENDS = {
    "runs_df": "name status protocol model seed error",
    "turns_df": "turn prompt_tokens reused_tokens decision stop_reason",
    "tokens_df": "turn step text logprob entropy",
    "top_logprobs_df": "turn step rank token_id text logprob",
    "cache_df": "turn decision reason reused_tokens computed_tokens",
    "tools_df": "turn name content_tokens error",
    "messages_df": "turn role tokens",
    "interventions_df": "event name kind layers coefficient",
}


@pytest.mark.parametrize("name", ENDS)
def test_a_terminal_of_80_columns_shows_what_matters_whatever_the_texts(
    opened: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pd.option_context("display.max_columns", 0):
        header = repr(getattr(tt, name)(opened["store"], opened["run_id"]).head()).split("\n")[0]

    assert len(header) <= 80
    assert set(ENDS[name].split()) <= set(header.split())


def column_table(name: str, frame: pd.DataFrame) -> str:
    rows = ["| column | type | meaning |", "|---|---|---|"]
    for field in FRAMES[name]:
        meaning = field.metadata[MEANING].decode()
        rows.append(f"| `{field.name}` | `{frame[field.name].dtype}` | {meaning} |")
    return "\n".join(rows)


@pytest.mark.parametrize("name", FRAMES)
def test_every_column_is_explained_with_its_declared_type(store: DatabaseStore, name: str) -> None:
    frame = getattr(tt, name)(store)
    _, _, rest = PAGE.partition(f"<!-- columns: {name} -->\n")
    shown = rest.lstrip("\n").partition("\n\n")[0].rstrip("\n")

    assert shown == column_table(name, frame)
