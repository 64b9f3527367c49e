"""The tables of runs and of turns in a terminal of 80 columns, with every column that they have."""

from dataclasses import replace

import pytest

from tests.door.test_inside_model import with_inside
from tests.replay.made_family import applied
from tokentape.output import RunRows, runs_table, turns_table
from tokentape.recorder.projections import RunSummary
from tokentape.recorder.turn_overviews import TurnOverview, read_overviews
from tokentape.screen import Table, out

COLUMNS = 80
SAMPLING = {"do_sample": True, "temperature": 0.75, "top_p": 0.95}


@pytest.fixture
def drawn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> "Drawn":
    monkeypatch.setattr("tokentape.screen._PIPE_COLUMNS", COLUMNS)
    return Drawn(capsys)


class Drawn:
    """Draws tables in 80 columns."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, table: Table) -> list[str]:
        out.show(table)
        return self._capsys.readouterr().out.splitlines()


def wide_turn(text: str) -> TurnOverview:
    """Return a turn of a long run, under an intervention, an adapter and a foreign hook."""
    key = {"adapters": f"{text} 12", "hooks": "foreign"}
    recording = with_inside(
        applied(2, 16, name=text), key=key, unreplayable=("logits_processor.OwnProcessor",)
    )
    turn = read_overviews(recording)[1]
    assert turn.cache is not None
    assert turn.finished is not None
    return replace(
        turn,
        started=replace(turn.started, sampling=SAMPLING),
        cache=replace(
            turn.cache,
            decision="partial",
            reason="history_edited",
            prompt_tokens=120_345,
            reused_tokens=120_000,
            computed_tokens=345,
        ),
        finished=replace(turn.finished, stop_reason="max_new_tokens", duration_us=123_400_000),
    )


@pytest.mark.parametrize("text", ["it", "honesty vector of layer 12", "a_name_without_spaces" * 3])
def test_turns_with_interventions_adapters_and_hooks_fit(drawn: Drawn, text: str) -> None:
    lines = drawn(turns_table([wide_turn(text)]))
    heading = lines[: next(index for index, each in enumerate(lines) if "generated" in each) + 1]

    assert max(map(len, lines)) <= COLUMNS
    assert all(word in " ".join(heading) for word in ("model", "prompt", "reused", "stopped by"))
    assert lines[-1].split(": ")[1].rstrip() == "computed, reason, seconds"
    assert all(each in "".join(lines).replace(" ", "") for each in (text.split()[0][:12], "hooks"))


def run(name: str, status: str = "finished", parent: str | None = None) -> RunSummary:
    return RunSummary(
        run_id=f"01a21db0-{name[:4]}",
        name=name,
        status=status,
        model="smollm2-demo",
        seed=1,
        started_at_us=1_800_000_000_000_000,
        updated_at_us=1_800_000_000_000_000,
        turns=34,
        prompt_tokens=59_045,
        reused_tokens=55_143,
        generated_tokens=1_234,
        parent_run_id=parent,
        forked_at_turn=None if parent is None else 12,
    )


def rows(*runs: RunSummary) -> RunRows:
    parents = {each.parent_run_id: "01a21db0-6aaa" for each in runs if each.parent_run_id}
    return RunRows(
        summaries=runs,
        statuses={each.run_id: each.status for each in runs},
        tool_errors={},
        labels={},
        forks={},
        parent_ids=parents,
        shown_ids={},
    )


PLAIN = [run("demo of the first phase"), run("probe", status="running (process gone)")]
FORK = run("fork of a probe with a long name", parent="01a21db0-6aaa-7000")


@pytest.mark.parametrize("status", ["finished", "interrupted", "running (process gone)"])
def test_a_list_keeps_when_runs_began_and_their_turns(drawn: Drawn, status: str) -> None:
    for runs in ([run("demo-phase1a", status=status)], [*PLAIN, FORK], [FORK], [FORK, *PLAIN[:1]]):
        lines = drawn(runs_table(rows(*runs)))

        assert max(map(len, lines)) <= COLUMNS
        assert all(word in lines[0].split() for word in ("run", "started", "name", "turns"))
        assert "generated" in lines[-1]


def test_a_list_leaves_out_the_column_of_forks_early_if_most_runs_are_none(drawn: Drawn) -> None:
    few, many = drawn(runs_table(rows(*PLAIN, FORK))), drawn(runs_table(rows(FORK, FORK)))

    assert "fork of" not in few[0]
    assert "model" in few[0]
    assert "not shown in 80 columns: fork of, prompt, reused, generated" in few[-1]
    assert "fork of" in many[0]
    assert "01a21db0-6aaa" in many[1]
    assert "not shown in 80 columns: model, prompt, reused, generated" in many[-1]
