"""Stores of both kinds of database, and runs with unusual values."""

import functools
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import tokentape as tt
from tests.made_events import run_started
from tests.store.crash import record_script
from tests.store.ssh_keys import make_key
from tokentape.recorder.events import (
    ActivationObserved,
    CacheDecided,
    HistoryPruned,
    InterventionApplied,
    InterventionRemoved,
    InterventionRequested,
    InterventionWithdrawn,
    MessageAdded,
    PrefillCompleted,
    RunStarted,
    SystemPromptCached,
    TokenSampled,
    TokensSpelled,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.numbers import to_half
from tokentape.store import DatabaseStore, StoredVerdict

ODD_TEXT = 'NUL \x00, spelled \\u0000, behind a backslash \\\x00, "quoted", it\'s\n\u2028 ünï 🙂'
ODD_FLOATS = (
    *(0.0, -0.0, -1e-45, 1e-45, -1.1754942e-38, -1.1754944e-38, -3.4028235e38, 3.4028235e38),
    *(-0.1, -1.0, -1.5, -16777216.0, -16777218.0, -33554432.0, -1e-20, -0.33333334, 1e30),
)
ODD_HALVES = (0.0, -0.0, 5.96e-08, -5.96e-08, 6.1e-05, 0.0999755859375, 1.0, 65504.0, -65504.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def live_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseStore]:
    """A blank store in a file, and one in PostgreSQL."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'runs.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    with tt.open_store(url) as store:
        assert isinstance(store, DatabaseStore)
        yield store


def odd_run(name: str = "odd", seed: int | None = None) -> RunStarted:
    return run_started(name=name, seed=seed, model='it\'s 100% "odd"')


def token(turn: int, step: int, **given: object) -> TokenSampled:
    plain = TokenSampled(
        turn=turn,
        step=step,
        position=4 + step,
        token_id=7,
        logprob=-1.0,
        logprob_processed=-0.5,
        entropy=1.5,
        top_gap=0.25,
        duration_us=20_125,
    )
    return replace(plain, **given)  # type: ignore[arg-type]


def turn_started(turn: int, *, sampling: dict[str, object], seed: int | None = None) -> TurnStarted:
    return TurnStarted(
        turn=turn,
        prompt_tokens=4,
        kept_tokens=0,
        kept_chars=0,
        added_ids=(1, 2, 3, 4),
        added_text=ODD_TEXT,
        history_reason="" if turn == 1 else f"the {ODD_TEXT}",
        seed=seed,
        sampling=sampling,
    )


def tool_returned(call_id: str, content: str, error: str | None) -> ToolReturned:
    return ToolReturned(
        call_id=call_id,
        name="look",
        content=content,
        content_tokens=len(content),
        payload_sha256="0" * 64,
        payload_bytes=2**40,
        payload_tokens=9,
        tensors=({"name": ODD_TEXT}, {}),
        error=error,
        duration_us=123,
    )


def odd_interventions() -> Iterable[object]:
    """One that is applied, removed and applied again, and one that is withdrawn."""
    described: dict[str, object] = {
        "name": ODD_TEXT,
        "kind": "steer",
        "layers": ("model.layers.1", ODD_TEXT),
        "coefficient": -0.1,
        "dimensions": (),
        "tensor_sha256": "1" * 64,
        "tensor_start": 3,
        "positions": "3:9",
        "schedule": {},
        "source": {},
    }
    yield InterventionRequested(**described, clear_cache=False)  # type: ignore[arg-type]
    yield InterventionApplied(**described, turn=1, position=2)  # type: ignore[arg-type]
    other = described | {"name": "other", "coefficient": None, "layers": ("x",)}
    yield InterventionApplied(**other, turn=1, position=0)  # type: ignore[arg-type]
    yield InterventionRemoved(turn=1, position=4, name=ODD_TEXT)
    yield InterventionApplied(**described, turn=1, position=2**31 - 1)  # type: ignore[arg-type]
    yield InterventionWithdrawn(name="other", clear_cache=True)
    yield InterventionRemoved(turn=1, position=7, name="never applied")


def odd_observation(turn: int) -> ActivationObserved:
    return ActivationObserved(
        turn=turn,
        source="decode",  # type: ignore[arg-type]
        start=3,
        end=5,
        positions_covered=1,
        statistics={
            "layer.1": {"mean": -0.1, "std": None, "abs_max_position": 4, "more": [1]},
            ODD_TEXT: {"l2_norm_mean": 1e300, "not_finite": 2**40},
            "layer.0": {},
        },
    )


def float32(number: float) -> float:
    (held,) = struct.unpack("<f", struct.pack("<f", number))
    return float(held)


def odd_turns() -> Iterable[object]:
    """A turn that finished, one that was cut off, and tools before both and after."""
    yield from odd_prompt()
    yield PrefillCompleted(
        turn=1, chunks=(3,), duration_us=2**62 + 1, kv_bytes=2**33, peak_bytes=2**34
    )
    for step, number in enumerate(ODD_FLOATS):
        half, *others = to_half(
            ODD_HALVES[step % len(ODD_HALVES)], *(-0.1 * n for n in range(step % 7))
        )
        yield token(
            1,
            step,
            token_id=256**step % 2**31,
            logprob=float32(number),
            logprob_processed=float32(-number),
            entropy=half,
            top_gap=-half,
            duration_us=step,
            top_ids=tuple(256 ** min(step // 4, 3) + n for n in range(len(others))),
            top_logprobs=tuple(others),
        )
    yield from odd_interventions()
    yield odd_observation(1)
    yield TokensSpelled(turn=1, texts={"1": ODD_TEXT, "256": "<0xE1>", "7": "", "65536": " so"})
    yield TurnFinished(
        turn=1,
        stop_reason="eos",
        generated_tokens=len(ODD_FLOATS),
        text=ODD_TEXT,
        stop_text="",
        generator_sha256="",
        duration_us=1_234_568,
    )
    yield ToolCalled(call_id="call_1", name="look", arguments={})
    yield tool_returned("call_1", "again", error=None)
    yield MessageAdded(role="tool", content="again", text="", ids=(5, 6), tool_call_id="call_1")
    yield MessageAdded(role="tool", content="?", text="", ids=(5,), tool_call_id="nothing")
    yield tool_returned("never called", "", error=None)
    yield HistoryPruned(
        turn=2,
        policy="turns",
        reason="context",
        removed_tokens=((1, 3),),
        removed_chars=(),
        removed_messages=(1,),
        tokens_before=9,
        tokens_after=7,
    )
    yield turn_started(2, sampling={"do_sample": False, "temperature": 0.5}, seed=2**63 - 1)
    yield odd_observation(2)
    yield token(2, 0)
    yield InterventionRemoved(turn=2, position=5, name=ODD_TEXT)
    yield TokensSpelled(turn=2, texts={"1": "not again", "8": "eight"})


def odd_prompt() -> Iterable[object]:
    """The beginning of the first turn, to its cache decision."""
    yield SystemPromptCached(
        content=ODD_TEXT,
        text=ODD_TEXT,
        ids=(1,),
        sha256="",
        chunks=(),
        duration_us=0,
        kv_bytes=0,
    )
    yield MessageAdded(role="user", content=ODD_TEXT, text=ODD_TEXT, ids=())
    yield ToolCalled(call_id="call_1", name="look", arguments={"at": ODD_TEXT, "n": [1, None]})
    yield tool_returned("call_1", ODD_TEXT, error=ODD_TEXT)
    yield turn_started(1, sampling={"do_sample": True, "temperature": 1, "top_p": 0.9, "top_k": 50})
    yield CacheDecided(
        turn=1,
        decision="partial",
        reason="token_divergence",
        prompt_tokens=4,
        reused_tokens=1,
        computed_tokens=3,
        cached_tokens=9,
        cropped_tokens=8,
        divergence_index=1,
        divergence_cached_id=5,
        divergence_prompt_id=6,
        key_field=ODD_TEXT,
        source="memory",
        disk_reason=ODD_TEXT,
    )


def odd_verdicts(run_id: str) -> Iterable[StoredVerdict]:
    """One with a whole report, and two with reports that lack everything or have it all wrong."""
    turn = {"tokens": 3, "mismatches": 1, "near_ties": 0, "margin_max": -0.0}
    turns = (
        turn | {"logprob_difference_max": 3.2782554626464844e-06, "margins": [None, 0.1]},
        turn | {"logprob_difference_max": 5e-324, "margin_max": 0.12345678901234567},
    )
    whole = {
        "reason": ODD_TEXT,
        "model": ODD_TEXT,
        "floor": {"version": ODD_TEXT},
        "turns": turns,
        "duration_us": 1_234_568,
    }
    wrong = {
        "reason": 3,
        "model": ["m"],
        "floor": "f",
        "turns": [turn | {"tokens": 2.5, "mismatches": True, "near_ties": 2**63}, None],
        "duration_us": 10**400,
    }
    for number, report in enumerate((whole, {}, wrong)):
        yield StoredVerdict(
            run_id=run_id,
            at_us=10**15 + number * 1_234_567,
            replay="verify" if number else "regenerate",
            verdict="drifted" if number else "near_tie",
            report=report,
        )


@pytest.fixture
def record_oddities() -> Callable[..., list[str]]:
    """Record two odd runs, one after the other and both unfinished, and two with no turn."""

    def run(store: DatabaseStore, *, with_verdicts: bool = True) -> list[str]:
        run_ids = []
        for number, name in enumerate((ODD_TEXT.replace("\x00", ""), "", "empty", "failed")):
            now_us = iter(range(10**15 + number * 10**12, 10**16, 1_234_567))
            recorder = tt.Recorder(store, clock_us=now_us.__next__)
            recorder.record(odd_run(name, seed=None if number else -5))
            for event in odd_turns() if number < 2 else ():
                recorder.record(event)  # type: ignore[arg-type]
            for verdict in odd_verdicts(recorder.run_id) if with_verdicts and number < 2 else ():
                store.add_verdict(verdict)
            if name == "failed":
                recorder.fail(ValueError(ODD_TEXT))
            run_ids.append(recorder.run_id)
        return run_ids

    return run


@pytest.fixture(scope="module")
def key_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes one key of each kind: RSA takes its time."""

    @functools.cache
    def make(kind: str) -> Path:
        return make_key(tmp_path_factory.mktemp("keys"), kind=kind)

    return make


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def run_id(store: DatabaseStore) -> str:
    return record_script(store, "a run", turns=3, seed=1)
