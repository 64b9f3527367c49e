"""The text of a report is complete, and printable whatever was recorded."""

import ast
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import tokentape as tt
from tests.replay.made_reports import (
    HOSTILE,
    bare,
    candidate,
    divergence,
    hostile,
    huge,
    not_numbers,
    of_verdict,
    report,
)
from tokentape.recorder.escapes import quoted, visible
from tokentape.replay.reports.divergence_text import in_full, sparkline
from tokentape.replay.reports.terminal import render
from tokentape.replay.results.verdict import DivergenceKind

ANYTHING = st.text(st.characters(), max_size=60)


def test_a_report_says_everything_in_order() -> None:
    printed = render(report())
    parts = [
        "verify 01a20797-1cda-77cb-a4ac-61b65d8031e8: DIVERGED",
        "turn 2, token 5: the model did not produce this token",
        "run probe, model smollm2-demo",
        "2.1 s, recorded generation 107.1 s",
        "1. token: The model did not produce token 5 of turn 2",
        "2. sampler:",
        "weights differs (ignored): recorded aaaa",
        "model.layers.3.mlp.up_proj.weight and 2 more tensors",
        "torch differs (noted): recorded 2.12.1, now 2.13.0",
        "altered: turn 2: the ids of the reply",
        "floor float32-2026-11 (float32): margin 0.001 logits, log-probability 0.0001 nats",
        "8,700 tokens",
        "picks within the noise: 1 seen, 0.0013 predicted",
        "turn   1  verified",
        "turn   2  diverged",
        "turn   4  verified",
        "first divergence: turn 2, token 5, position 1415 (token: another token is picked)",
        "assistant\\nThe layer has'",
        "token  -> ' matrices' <-",
        "after     ' of the largest size,\\nand",
        "recorded  ' matrices'  id 9120  log-probability -3.0034",
        "replayed  ' norm'      id 812   log-probability -0.4126, score 21.4413",
        "margin    5.43 logits (eps 0.001)",
        "differs by 0.0003 nats (floor 0.0001)",
        "score   21.4413",
        "removed by top_p",
        "differences of tokens 0 to 5: ",
        "likely cause: The model did not produce token 5 of turn 2",
        "repeat: tokentape verify",
        "then 3 more:",
        "turn 2 token 6: filtered",
        "tools returned something else in 1 field:",
        "turn 3: get_weight_statistics (call_1), mean: recorded 0.00012, now 0.00031",
    ]
    places = [printed.find(part) for part in parts]

    assert -1 not in places, parts[places.index(-1)]
    assert places == sorted(places)


@pytest.mark.parametrize("verdict", tt.Verdict)
def test_every_verdict_is_shouted(verdict: tt.Verdict) -> None:
    assert f": {verdict.upper()}\n" in render(of_verdict(verdict))


def test_what_is_not_there_leaves_no_gap() -> None:
    printed = render(bare())

    assert "floor: none known" in printed
    assert "None" not in printed
    assert "\n\n" not in printed


def test_a_seed_and_a_stop_that_contradict_are_named_in_their_turn() -> None:
    (first, *others) = report().turns
    both = replace(first, generator_matches=False, stop_matches=False)
    line = next(
        line for line in render(report(turns=(both, *others))).splitlines() if "turn   1" in line
    )

    assert "the seed does not lead to the recorded end state" in line
    assert "its settings do not stop it at its last token, for its stop reason" in line


def test_a_boundary_and_the_processors_are_told_of_a_filtered_token() -> None:
    each = divergence(
        kind=DivergenceKind.FILTERED,
        margin=None,
        boundary_gap=0.25,
        processed_difference=0.125,
        step=9,
    )
    printed = "\n".join(in_full(report(floor=None), each))

    assert "filtered by the sampler, 0.25 logits short of the boundary (no eps known)" in printed
    assert "(no floor known), after the processors by 0.125" in printed


@pytest.mark.parametrize("kind", DivergenceKind)
def test_every_kind_of_divergence_can_be_shown(kind: DivergenceKind) -> None:
    assert f"({kind}: {kind.meaning}" in render(report(divergences=(divergence(kind=kind),)))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_in_a_text_reaches_the_terminal(text: str) -> None:
    plain, printed = render(hostile("x")), render(hostile(text))

    # An emoji may have joiners.
    assert printed.replace("\n", "").replace("👩\u200d", "").isprintable()
    # An empty sentence takes no line.
    assert len(printed.splitlines()) == len(plain.splitlines()) or not text
    assert max(map(len, printed.splitlines())) < 16_000
    printed.encode()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_columns_stay_where_they_are(text: str) -> None:
    odd, even = candidate(1, text, -1.0), candidate(1, "even", -2.0)
    each = divergence(
        recorded=odd,
        replayed=even,
        recorded_top=(odd, even),
        replayed_top=(even, odd),
    )
    lines = in_full(report(), each)
    sides = [line for line in lines if line.startswith(("  recorded  ", "  replayed  "))]
    ranked = [line for line in lines if line.startswith(("   1 ", "   2 "))]

    assert len({cell_len(line[: line.rindex("id 1")]) for line in sides}) == 1
    assert len(ranked) == 2
    assert len({cell_len(line[: line.rindex("0000")]) for line in ranked}) == 1
    assert all(cell_len(line) < 140 for line in lines)


@given(ANYTHING)
def test_what_is_quoted_can_be_read_back(text: str) -> None:
    assert ast.literal_eval(quoted(text, 10_000)) == text


@given(ANYTHING, st.integers(0, 30), st.sampled_from(["start", "end"]))
def test_what_is_quoted_has_its_place(text: str, columns: int, keep: str) -> None:
    shown = quoted(text, columns, keep=keep)  # type: ignore[arg-type]

    assert shown.isprintable()
    assert cell_len(shown) <= columns + 3
    assert visible(text).isprintable()
    assert visible(visible(text)) == visible(text)


def test_of_a_long_text_the_end_that_matters_is_kept() -> None:
    assert quoted("abcdef", 3) == "'abc'…"
    assert quoted("abcdef", 3, keep="end") == "…'def'"
    assert quoted("漢字漢字", 5) == "'漢字'…"
    assert visible("x" * 6_000).endswith("… (6,000 characters)")


def test_what_is_too_much_is_counted() -> None:
    printed = render(huge(3, 10, divergences=100))

    assert "then 99 more:" in printed
    assert printed.count("token: another") == 1
    assert printed.count("turn 3 token ") == 20
    assert "… 79 not shown; --json lists all" in printed


def test_a_sparkline_has_the_noise_in_its_lower_half() -> None:
    values = (0.0, 1e-9, 1e-5, 1e-4, 1.1e-4, 1.0, math.inf, math.nan)

    assert sparkline(values, 1e-4) == "▁▁▃▄▅██?"
    assert sparkline((1e-4, 2e-4), None) == "▄▅"


def test_the_numbers_before_a_token_are_counted_to_where_they_go() -> None:
    """`regenerate` compares no number at the token that differs."""
    made = report()
    cut = replace(made.turns[1], logprob_differences=made.turns[1].logprob_differences[:5])
    first = divergence(step=5)

    assert "differences of tokens 0 to 4: " in render(report(turns=(cut,), divergences=(first,)))
    assert "differences of tokens 0 to 5: " in render(report(divergences=(first,)))
    late = render(report(turns=huge(2, 90).turns, divergences=(divergence(step=80),)))
    assert "differences of tokens 41 to 80: " in late


def test_a_model_that_gives_no_numbers_can_be_reported() -> None:
    printed = render(not_numbers())

    assert "margin    nan logits, inf logits short of the boundary" in printed
    assert "?█▁▁" in printed


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory,
    make_lm: Callable[..., tt.LoadedModel],
    record: Callable[..., tt.Recording],
) -> Path:
    path = tmp_path_factory.mktemp("store") / "runs.db"
    with tt.open_store(path) as store:
        record(make_lm("llama"), store)
    return path


def printed_of(path: Path, lm: tt.LoadedModel) -> str:
    with tt.open_store(path) as store:
        return render(tt.verify(store.recording(store.summaries()[0].run_id), lm))


def test_an_honest_run_is_reported_without_a_divergence(recorded: Path, lm: tt.LoadedModel) -> None:
    printed = printed_of(recorded, lm)

    assert ": VERIFIED\n" in printed
    assert printed.count("verified ") == 4
    assert "divergence" not in printed
    assert "more:" not in printed


def test_other_weights_are_reported_at_the_first_token(
    recorded: Path, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    printed = printed_of(recorded, make_lm("llama", seed=5))

    assert ": INCOMPARABLE\n" in printed
    assert "weights differs: recorded " in printed
    assert "first divergence: turn 1, token 0, " in printed
    assert "more:" in printed


def test_a_tampered_token_is_reported_where_it_is(
    recorded: Path, lm: tt.LoadedModel, forged: Callable[[Path, str], Path]
) -> None:
    printed = printed_of(forged(recorded, "token"), lm)

    assert ": DIVERGED\n" in printed
    assert "first divergence: turn 3, token 4, " in printed
    assert "differences of tokens 0 to 4: " in printed
    assert "repeat: tokentape verify" in printed
