"""The runs that the pages of the tests show: an investigation of a tiny model, and its fork."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokentape as tt
from benchmarks.replay.fault_case import SAMPLED, Case
from benchmarks.replay.faults import tampered
from tokentape.store import DatabaseStore, StoredVerdict

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 24}
PRUNED_TURN = 3
"""The turn whose prompt lost results of tools: a partial hit."""
TAMPERED = "a copy with one token changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A recorded run, its fork, and the replay of a copy in which one token was changed."""

    folder: Path
    url: str
    run_id: str
    fork_id: str
    tampered: tt.Report


def record_probe(lm: tt.LoadedModel, folder: Path) -> Probe:
    """Record the runs into a new database, and verify the run and a tampered copy of it."""
    url = f"sqlite:///{folder / 'probe.db'}"
    with tt.open_store(url) as store:
        assert isinstance(store, DatabaseStore)
        run_id = _record_run(lm, store)
        recording = store.recording(run_id)
        verified = tt.verify(recording, lm)
        store.add_verdict(
            StoredVerdict(
                run_id=run_id,
                at_us=1_800_000_000_000_000,
                replay=verified.replay,
                verdict=verified.verdict,
                report=verified.to_dict(),
            )
        )
        report = tt.verify(tampered(Case(recording, lm, store)).recording, lm)
        token = recording.turns()[1].tokens[3]
        with tt.Investigation.fork(
            store,
            run_id,
            lm,
            at_turn=2,
            at_token=3,
            token=token.top_ids[1],
            tools=tt.default_tools(lm),
            name="other word",
        ) as fork:
            fork.chat("And then?", **GREEDY)
    return Probe(folder=folder, url=url, run_id=run_id, fork_id=fork.run_id, tampered=report)


def _record_run(lm: tt.LoadedModel, store: DatabaseStore) -> str:
    """Record five turns: three tool calls, an intervention, a pruned history."""
    names = [name for name, _ in lm.model.named_parameters() if "mlp" in name]
    calls = [
        tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": name, "compact": True})
        for name in names[:3]
    ]
    vector = tt.contrast(lm, ["Yes."], ["No."], layer=1)
    with tt.Investigation(
        lm,
        store=store,
        name="probe",
        system_prompt="You study your own weights.",
        tools=tt.default_tools(lm),
        seed=7,
        context_tokens=1_000,
        at_context_limit="prune_tool_results",
    ) as run:
        run.chat("What do you see?", **GREEDY)
        run.chat("And here?", tool_calls=calls, max_new_tokens=24, **SAMPLED)
        run.intervene(tt.Intervention.steer("sure", 1, vector, coefficient=2.0))
        look = {"layer_name": "1", "recompute": True}
        observe = tt.ToolCall(name="get_activation_statistics", arguments=look)
        run.chat("Are you sure?", tool_calls=[observe], **GREEDY)
        run.withdraw("sure")
        run.chat("Look again.", tool_calls=calls[:2], **GREEDY)
        run.chat("Thank you.", **GREEDY)
    return run.run_id
