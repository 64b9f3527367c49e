"""Many runs are verified together with the outcomes that they have one by one."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.replay.fault_case import Case, record_case
from benchmarks.replay.faults import FAULTS, Fault, check_fault
from tests.interventions import intervention, record_with
from tests.replay.conversations import converse
from tokentape.generation.fingerprints import texts
from tokentape.replay.verify_many import verify_many
from tokentape.store import DatabaseStore

MakeLM = Callable[..., tt.LoadedModel]

SETTINGS: list[dict[str, Any]] = [
    {"do_sample": False, "tokens": 5},
    {"do_sample": True, "top_p": 0.8, "tokens": 9, "turns": 1},
    {"do_sample": True, "temperature": 1.4, "repetition_penalty": 1.2, "turns": 2},
    {"do_sample": False, "no_repeat_ngram_size": 2, "tokens": 3, "turns": 1},
]


def outline(report: tt.Report | None) -> dict[str, Any]:
    """Return all of a report that rounding and time do not change."""
    assert report is not None
    number = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)")
    return {
        "verdict": report.verdict,
        "reason": number.sub("N", report.reason),
        "causes": [(each.name, each.turn, each.step) for each in report.causes],
        "turns": [
            (each.turn, each.verdict, each.mismatches, each.near_ties, each.tokens)
            for each in report.turns
        ],
        "ends": [(each.generator_matches, each.stop_matches) for each in report.turns],
        "divergences": [
            (each.kind, each.turn, each.step, each.recorded.token_id, each.replayed.token_id)
            for each in report.divergences
        ],
        "differences": report.differences,
        "altered": report.altered,
        "floor": report.floor,
        "repro": report.repro,
    }


def in_bulk(recordings: Sequence[tt.Recording], lm: tt.LoadedModel) -> list[tt.Report]:
    found = verify_many(recordings, lm)
    assert [each.run_id for each in found] == [each.run_id for each in recordings]
    assert [each.error for each in found] == [None] * len(found)
    return [each.report for each in found if each.report is not None]


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return the list of the shapes of ids that models forward from now on."""
    shapes: list[tuple[int, ...]] = []
    call = torch.nn.Module.__call__

    def counted(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if isinstance(kwargs.get("input_ids"), torch.Tensor) and hasattr(module, "generate"):
            shapes.append(tuple(kwargs["input_ids"].shape))
        return call(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", counted)
    return shapes


def conversations(lm: tt.LoadedModel, store: DatabaseStore) -> list[tt.Recording]:
    return [
        converse(lm, store, seed=seed, **settings) for seed in range(2) for settings in SETTINGS
    ]


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        *((each, torch.float32) for each in ("llama", "qwen3", "gpt2", "mistral", "gemma3")),
        *((each, torch.float32) for each in ("mamba", "qwen3-next")),
        *((each, torch.bfloat16) for each in ("llama", "gemma3")),
    ],
    ids=str,
)
def test_honest_runs_of_every_family_have_the_reports_that_they_have_alone(
    family: str, dtype: torch.dtype, make_lm: MakeLM, store: DatabaseStore
) -> None:
    lm = make_lm(family, dtype=dtype)
    recordings = conversations(lm, store)
    alone = [tt.verify(each, lm) for each in recordings]

    found = in_bulk(recordings, lm)

    assert [outline(each) for each in found] == [outline(each) for each in alone]
    for one, many in zip(alone, found, strict=True):
        for ours, theirs in zip(one.turns, many.turns, strict=True):
            assert ours.logprob_differences == pytest.approx(theirs.logprob_differences, abs=5e-5)


@pytest.fixture(scope="module")
def case_in(make_lm: MakeLM) -> Callable[[torch.dtype], Case]:
    """Return a function that records the case of a dtype once."""
    return cache(lambda dtype: record_case(make_lm("llama", dtype=dtype), tokens=16))


@pytest.mark.parametrize(
    ("fault", "dtype"),
    [
        *(
            pytest.param(fault, torch.float32, marks=[pytest.mark.slow] if number % 3 else [])
            for number, fault in enumerate(FAULTS)
        ),
        *((fault, torch.bfloat16) for fault in FAULTS[::6]),
    ],
    ids=lambda each: getattr(each, "name", str(each)),
)
def test_a_fault_among_honest_runs_is_found_as_it_is_alone(
    case_in: Callable[[torch.dtype], Case], fault: Fault, dtype: torch.dtype
) -> None:
    case = case_in(dtype)

    def replay(recording: tt.Recording, lm: tt.LoadedModel, **options: Any) -> tt.Report:
        alone = tt.verify(recording, lm, **options)
        among = verify_many([case.recording, recording, case.recording], lm, **options)

        assert outline(among[1].report) == outline(alone)
        assert outline(among[0].report) == outline(among[2].report)
        return alone

    check_fault(fault, case, replay)


def test_short_runs_share_a_forward_and_their_beginning_is_forwarded_once(
    lm: tt.LoadedModel, store: DatabaseStore, forwards: list[tuple[int, ...]]
) -> None:
    recordings = conversations(lm, store)
    forwards.clear()

    in_bulk(recordings, lm)

    (alone, prefix), *packs = forwards
    assert alone == 1
    assert prefix >= len("<|im_start|>system\nBe kind and brief.") - len("<|im_start|>") + 1
    assert sum(sequences for sequences, _ in packs) == len(recordings)
    assert len(packs) <= 3
    assert max(sequences * length for sequences, length in packs) <= 512


@pytest.mark.parametrize(
    ("family", "settings"),
    [("llama", {"dtype": torch.bfloat16}), ("mamba", {}), ("qwen3-next", {})],
    ids=["16 bits", "recurrent", "experts"],
)
def test_models_whose_verdicts_rounding_could_change_are_forwarded_one_by_one(
    family: str,
    settings: dict[str, Any],
    make_lm: MakeLM,
    store: DatabaseStore,
    forwards: list[tuple[int, ...]],
) -> None:
    lm = make_lm(family, **settings)
    recordings = [converse(lm, store, seed=seed, turns=1) for seed in range(3)]
    forwards.clear()

    in_bulk(recordings, lm)

    assert [sequences for sequences, _ in forwards] == [1, 1, 1]


def test_a_run_with_interventions_is_forwarded_alone(
    lm: tt.LoadedModel, store: DatabaseStore, forwards: list[tuple[int, ...]]
) -> None:
    steered = record_with(lm, store, intervention("steer"))
    plain = [converse(lm, store, seed=seed, turns=1) for seed in range(2)]
    alone = tt.verify(steered, lm)
    forwards.clear()

    found = in_bulk([plain[0], steered, plain[1]], lm)

    assert outline(found[1]) == outline(alone)
    assert found[1].verdict is tt.Verdict.VERIFIED
    assert [sequences for sequences, _ in forwards] == [1, 2, 1]


def test_a_long_run_is_forwarded_alone_in_chunks(
    lm: tt.LoadedModel, store: DatabaseStore, forwards: list[tuple[int, ...]]
) -> None:
    with tt.Investigation(lm, store=store, name="long", system_prompt="Be brief.", seed=7) as run:
        run.chat("word " * 140, max_new_tokens=4)
    recordings = [store.recording(run.run_id), *conversations(lm, store)]
    forwards.clear()

    found = in_bulk(recordings, lm)

    assert {each.verdict for each in found} == {tt.Verdict.VERIFIED}
    assert max(sequences * length for sequences, length in forwards) <= 512


def test_an_error_of_one_run_does_not_end_the_others(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    honest = [converse(lm, store, seed=seed, turns=1) for seed in range(2)]
    with tt.Investigation(lm, store=store, name="empty", system_prompt="Be kind.") as run:
        pass
    calls: list[tuple[int, int]] = []

    found = verify_many(
        [honest[0], store.recording(run.run_id), honest[1]],
        lm,
        progress=lambda done, total: calls.append((done, total)),
    )

    assert [each.report is not None for each in found] == [True, False, True]
    assert isinstance(found[1].error, tt.NothingToReplayError)
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_the_fingerprints_of_the_model_are_computed_once_and_again_in_the_next_call(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = [converse(lm, store, seed=seed, turns=1) for seed in range(4)]
    hashed: list[object] = []
    sha256 = texts.tokenizer_sha256
    monkeypatch.setattr(
        "tokentape.generation.fingerprints.tokenizer_sha256",
        lambda tokenizer: hashed.append(tokenizer) or sha256(tokenizer),
    )

    in_bulk(recordings, lm)
    once = len(hashed)
    monkeypatch.setattr(lm.tokenizer, "chat_template", "{{ messages }}")
    found = in_bulk(recordings, lm)

    assert once == 1
    assert {each.verdict for each in found} == {tt.Verdict.INCOMPARABLE}
    assert found[0].differences[0].field == "template"


def test_memory_that_runs_out_in_a_shared_forward_leaves_the_runs_to_their_own(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = [converse(lm, store, seed=seed, turns=1) for seed in range(3)]

    def fails(*args: Any) -> None:
        raise tt.ModelError("not enough memory")

    monkeypatch.setattr("tokentape.replay.checking.packing.forward_padded", fails)

    assert {each.verdict for each in in_bulk(recordings, lm)} == {tt.Verdict.VERIFIED}


def test_the_times_of_the_reports_add_up_to_no_more_than_the_whole(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    found = in_bulk([converse(lm, store, seed=seed, turns=1) for seed in range(3)], lm)

    assert all(each.duration_us > 0 for each in found)


def test_unknown_options_are_refused(lm: tt.LoadedModel) -> None:
    with pytest.raises(TypeError, match=r"verify_many\(\) has no option 'turn'"):
        verify_many([], lm, turn=[1])  # type: ignore[call-arg]
