"""Every injected fault gets its verdict and its cause; correct recordings get neither.

The table in docs/replay.md is that of `python -m benchmarks faults`.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

import tokentape as tt
from benchmarks.replay.fault_case import SAMPLED, Case, record_case
from benchmarks.replay.faults import FAULTS, Fault, FaultResult, check_fault
from tokentape.replay.reports.terminal import render
from tokentape.replay.results.verdict import CauseKind

DOCS = Path(__file__).parents[2] / "docs" / "replay.md"
NAMES = [fault.name for fault in FAULTS]


@pytest.fixture(scope="module", params=["tiny", pytest.param("demo", marks=pytest.mark.demo_model)])
def case(request: pytest.FixtureRequest, make_lm: Callable[..., tt.LoadedModel]) -> Case:
    lm = make_lm("llama") if request.param == "tiny" else request.getfixturevalue("demo_lm")
    return record_case(lm, tokens=16)


@pytest.fixture(scope="module")
def found_in(case: Case) -> Callable[[Fault], FaultResult]:
    """Return the reports on a fault; each fault is injected once."""
    return cache(lambda fault: check_fault(fault, case))


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_a_fault_gets_the_right_verdict_and_the_right_cause(
    found_in: Callable[[Fault], FaultResult], fault: Fault
) -> None:
    found = found_in(fault)

    assert found.is_right, f"{render(found.report)}\n\n{render(found.numbers)}"
    assert all(cause.name in CauseKind for cause in found.report.causes)
    assert found.report.passes == (fault.name == "honest")


@pytest.mark.parametrize("setting", ["temperature", "top_k", "top_p", "repetition_penalty"])
def test_the_setting_that_was_changed_and_its_old_value_are_named(
    found_in: Callable[[Fault], FaultResult], setting: str
) -> None:
    fault = next(each for each in FAULTS if each.name.startswith(setting.replace("_", " ")))
    (cause, *_) = found_in(fault).report.causes

    assert f"{setting} {SAMPLED[setting]:g} explains the turn" in cause.sentence
    assert cause.turn == 2


def test_what_was_changed_is_named_where_it_was_changed(
    found_in: Callable[[Fault], FaultResult],
) -> None:
    places = {
        "one word of the system prompt": (1, None),
        "one token tampered": (2, 5),
        "seed + 1": (2, None),
        "one draw lost": (2, None),
        "tool result changed": (3, None),
    }
    for fault in (each for each in FAULTS if each.name in places):
        (cause, *_) = found_in(fault).report.causes
        turn, step = places[fault.name]

        assert cause.turn == turn, fault.name
        assert step is None or cause.step == step, fault.name


def test_the_docs_have_a_row_for_every_fault() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for model in ("tiny", "smollm2-demo"):
        table = text.split(f"<!-- faults of {model} -->")[1].split("<!-- end")[0]
        rows = [line.split(" | ") for line in table.strip().splitlines()[2:]]

        assert [row[0].removeprefix("| ") for row in rows] == NAMES
        for row, fault in zip(rows, FAULTS, strict=True):
            assert row[1] in (("incomparable",) if fault.fingerprint else fault.verdicts)
            assert row[2] in [cause or "none" for cause in fault.causes]


SETTINGS = (
    {"do_sample": False},
    {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    {"do_sample": True, "temperature": 1.3, "top_k": 0},
    {"do_sample": True, "temperature": 0.3, "top_k": 20},
    SAMPLED,
)
PROMPTS = (
    ("Be kind.", ("Hello", "And then?")),
    ("You measure. " * 30, ("What is a norm? " * 10, "Go on.")),
)


def honest(make_lm: Callable[..., tt.LoadedModel]) -> Iterator[tuple[tt.Recording, tt.LoadedModel]]:
    """Make 20 recordings: two models, five settings and two conversations, with different seeds."""
    models = [make_lm("llama"), make_lm("qwen3", seed=3)]
    cases = itertools.product(models, SETTINGS, PROMPTS)
    for seed, (lm, settings, (system_prompt, messages)) in enumerate(cases):
        store = tt.open_store("sqlite://")
        with tt.Investigation(
            lm, store=store, name="honest", system_prompt=system_prompt, seed=seed
        ) as run:
            for message in messages:
                run.chat(message, max_new_tokens=12, **settings)
        yield store.recording(run.run_id), lm


def test_a_hundred_honest_verifications_give_no_false_alarm(
    make_lm: Callable[..., tt.LoadedModel],
) -> None:
    threads = torch.get_num_threads()
    verified = 0
    try:
        for recording, lm in honest(make_lm):
            # Two threads for larger chunks only: in small forwards they wait for each other.
            for chunk_tokens, count in ((512, 2), (64, 2), (17, 1), (5, 1), (1, 1)):
                torch.set_num_threads(count)
                report = tt.verify(recording, lm, chunk_tokens=chunk_tokens)

                assert report.verdict is tt.Verdict.VERIFIED, render(report)
                verified += 1
    finally:
        torch.set_num_threads(threads)

    assert verified == 100
