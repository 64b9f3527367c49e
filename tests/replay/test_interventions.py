"""Replays apply recorded interventions again, and diverge without them."""

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from tests.interventions import (
    GREEDY,
    KINDS,
    SAMPLED,
    intervention,
    ranges_of,
    record_with,
    vector,
)
from tests.replay.conftest import change_body
from tests.tampering import without_triggers
from tokentape.generation.interventions import tensor_to_bytes
from tokentape.recorder.events import InterventionApplied
from tokentape.replay.checking.noise_floor import version_of
from tokentape.store import DatabaseStore

MakeLM = Callable[..., tt.LoadedModel]

POSITIONS = ("all", "prompt", "generated", "last", "range")
RULES: dict[str, dict[str, Any]] = {
    "all": {"positions": "all"},
    "prompt": {"positions": "prompt"},
    "generated": {"positions": "generated"},
    "last": {"positions": "last"},
    "range": {"positions": (60, 75)},
    "from_step": {"from_step": 2},
    "turns": {"turns": (3, 3)},
    "when": {"when": lambda state: len(state.generated_tokens) % 2},
    "dimensions": {"dimensions": tuple(range(16, 64))},
}


def made(kind: str, rule: dict[str, Any]) -> tt.Intervention:
    if "dimensions" not in rule or kind in ("ablate_zero", "scale", "placebo"):
        return intervention(kind, **rule)
    part = vector()[16:]
    if kind == "steer":
        return tt.Intervention.steer("it", 0, part, coefficient=2.5, **rule)
    if kind == "ablate_mean":
        return tt.Intervention.ablate("it", 0, mean=part, **rule)
    return tt.Intervention.patch("it", 0, vector(rows=400)[:, 16:], start=0, **rule)


def proven(recording: tt.Recording, lm: tt.LoadedModel, kind: str, **settings: Any) -> None:
    """Check that a run replays, and diverges without its interventions if they are no placebos."""
    verified = tt.verify(recording, lm, **settings)
    without = tt.verify(recording, lm, interventions=False, **settings)

    assert verified.verdict is tt.Verdict.VERIFIED, verified.reason
    assert tt.regenerate(recording, lm, **settings).verdict is tt.Verdict.EXACT
    assert without.passes == (kind == "placebo"), without.reason
    if kind != "placebo":
        cause = without.causes[0]
        assert cause.name == "intervention"
        assert f"replayed without intervention 'it' ({kind} in " in cause.sentence
        assert without.repro.endswith("--without-interventions")


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        *((kind, rule) for kind in KINDS for rule in POSITIONS),
        *((kind, rule) for kind in ("steer", "patch") for rule in RULES if rule not in POSITIONS),
    ],
)
def test_every_kind_under_every_rule_replays_and_is_missed_without(
    lm: tt.LoadedModel, store: DatabaseStore, kind: str, rule: str
) -> None:
    recording = record_with(lm, store, made(kind, RULES[rule]))

    assert any(turn.interventions for turn in recording.turns())
    proven(recording, lm, kind)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *((family, kind) for family in ("gpt2", "gemma3") for kind in KINDS),
        *((family, kind) for family in ("qwen3", "mistral") for kind in ("steer", "patch")),
    ],
)
def test_every_kind_replays_in_every_family(
    make_lm: MakeLM, store: DatabaseStore, family: str, kind: str
) -> None:
    lm = make_lm(family)
    proven(record_with(lm, store, intervention(kind), tokens=3), lm, kind)


@pytest.mark.parametrize("part", ["blocks.1.hook_mlp_out", "blocks.1.hook_attn_out", "-1"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_parts_of_layers_are_intervened_with(
    make_lm: MakeLM, store: DatabaseStore, family: str, part: str
) -> None:
    lm = make_lm(family)
    proven(record_with(lm, store, intervention("steer", layer=part)), lm, "steer")


@pytest.mark.parametrize("family", ["mamba", "qwen3-next"])
def test_a_recurrent_state_remembers_an_intervention(
    make_lm: MakeLM, store: DatabaseStore, family: str
) -> None:
    """Allow for noise with a longer tail than these few tokens show: see `test_any_order`."""
    lm = make_lm(family)
    recording = record_with(lm, store, intervention("steer", from_step=1))
    floor = replace(tt.calibrate(recording, lm), logprob_floor=1e-3)
    floor = replace(floor, version=version_of(floor))

    assert tt.verify(recording, lm, floor=floor).passes
    assert tt.regenerate(recording, lm).verdict is tt.Verdict.EXACT
    assert not tt.verify(recording, lm, floor=floor, interventions=False).passes


def test_16_bits_replay_within_their_noise(make_lm: MakeLM, store: DatabaseStore) -> None:
    lm = make_lm("llama")
    lm = tt.LoadedModel(lm.model.to(torch.bfloat16), lm.tokenizer, lm.name)
    recording = record_with(lm, store, intervention("steer"), tokens=20)
    floor = tt.calibrate(recording, lm)

    assert tt.verify(recording, lm, floor=floor).passes
    assert not tt.verify(recording, lm, floor=floor, interventions=False).passes


@pytest.mark.parametrize("chunk_tokens", [1, 7, 512])
def test_chunks_of_a_replay_do_not_move_what_acts(
    lm: tt.LoadedModel, store: DatabaseStore, chunk_tokens: int
) -> None:
    recording = record_with(lm, store, intervention("patch", positions=(50, 90)))

    assert tt.verify(recording, lm, chunk_tokens=chunk_tokens).verdict is tt.Verdict.VERIFIED


def test_several_act_in_the_order_in_which_they_came(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """The order counts: scaling after adding a vector scales the vector, too."""
    one, other = intervention("steer", name="one"), intervention("scale", name="other")
    recording = record_with(lm, store, one, other)
    swapped = record_with(lm, store, other, one)
    last, last_swapped = recording.turns()[-1], swapped.turns()[-1]

    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
    assert tt.verify(swapped, lm).verdict is tt.Verdict.VERIFIED
    assert [each.logprob for each in last.tokens] != [each.logprob for each in last_swapped.tokens]


def test_a_turn_after_the_removal_reuses_the_history_as_it_was_lived(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.") as run:
        run.chat("One?", max_new_tokens=4, **GREEDY)
        run.intervene(intervention("steer"))
        steered = run.chat("Two?", max_new_tokens=4, **GREEDY)
        run.withdraw("it")
        after = run.chat("Three?", max_new_tokens=4, **GREEDY)
    recording = store.recording(run.run_id)
    first, second, third = recording.turns()

    assert (steered.cache.reason, after.cache.reason) == ("extends", "extends")
    assert ranges_of(first) == []
    begun, ended = len(first.prompt_ids) + 4, len(second.prompt_ids) + 4
    assert ranges_of(second) == ranges_of(third) == [("it", begun, ended)]
    assert after.cache.reused_tokens == ended - 1
    assert tt.verify(recording, lm, turns=[3]).verdict is tt.Verdict.VERIFIED
    assert not tt.verify(recording, lm, turns=[3], interventions=False).passes
    assert tt.regenerate(recording, lm, turns=[3]).verdict is tt.Verdict.EXACT


def test_clearing_the_cache_puts_the_whole_prompt_under_the_intervention(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.") as run:
        run.chat("One?", max_new_tokens=4, **GREEDY)
        run.intervene(intervention("steer"), clear_cache=True)
        steered = run.chat("Two?", max_new_tokens=4, **GREEDY)
        run.withdraw("it", clear_cache=True)
        freed = run.chat("Three?", max_new_tokens=4, **GREEDY)
    recording = store.recording(run.run_id)
    _, second, third = recording.turns()
    cleared = [each for each in recording.events() if type(each.event).__name__ == "CacheCleared"]

    assert [each.event.reason for each in cleared] == ["intervention", "intervention"]
    assert (steered.cache.reused_tokens, freed.cache.reused_tokens) == (0, 0)
    assert ranges_of(second) == [("it", 0, len(second.prompt_ids) + 4)]
    assert ranges_of(third) == []
    proven(recording, lm, "steer")


def test_a_pruned_history_takes_what_acted_on_it_along(
    make_lm: MakeLM, store: DatabaseStore
) -> None:
    """Also for a patch whose middle rows were pruned."""
    lm = make_lm("llama", max_position_embeddings=190)
    with tt.Investigation(
        lm, store=store, name="t", system_prompt="Hi.", at_context_limit="prune_turns"
    ) as run:
        run.chat("One?", max_new_tokens=4, **GREEDY)
        run.intervene(intervention("patch", name="rows", positions=(20, 110)))
        run.intervene(intervention("steer", layer=2, positions="generated"))
        for index in range(6):
            run.chat(f"And {index}?", max_new_tokens=4, **GREEDY)
    recording = store.recording(run.run_id)
    pruned = [turn for turn in recording.turns() if turn.pruned is not None]

    assert pruned
    assert any(
        each.name == "rows" and each.tensor_start is not None and each.tensor_start < 0
        for turn in pruned
        for each in turn.interventions
    )
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
    assert tt.regenerate(recording, lm).verdict is tt.Verdict.EXACT


def change_kept(path: Path, change: Callable[[sqlite3.Connection], None]) -> None:
    with closing(sqlite3.connect(path)) as connection, without_triggers(connection):
        change(connection)


def test_an_intervention_that_was_never_there_is_named(lm: tt.LoadedModel, tmp_path: Path) -> None:
    """A placebo is recorded; a forger changes it into an intervention that acts."""
    path = tmp_path / "runs.db"
    with tt.open_store(f"sqlite:///{path}") as store:
        asked = [intervention("steer"), intervention("placebo", name="sham", layer=1)]
        run_id = record_with(lm, store, *asked).run_id

    def change(body: dict[str, Any]) -> None:
        body["kind"] = "ablate_zero" if body["name"] == "sham" else body["kind"]

    def forge(db: sqlite3.Connection) -> None:
        rows = "SELECT event_key, body FROM events WHERE kind = 'InterventionApplied'"
        for key, body in db.execute(rows).fetchall():
            values = json.loads(body)
            change(values)
            update = "UPDATE events SET body = ? WHERE event_key = ?"
            db.execute(update, (json.dumps(values), key))

    change_kept(path, forge)
    with tt.open_store(f"sqlite:///{path}") as store:
        report = tt.verify(store.recording(run_id), lm)
        causes = {cause.name: cause.sentence for cause in report.causes}

        assert "agree without intervention 'sham' (ablate_zero in " in causes["intervention"]


def other_coefficient(body: dict[str, Any]) -> None:
    body["coefficient"] += 0.01


def other_position(body: dict[str, Any]) -> None:
    body["position"] += 3


def other_layer(body: dict[str, Any]) -> None:
    body["layers"] = ["model.layers.2"]


@pytest.mark.parametrize("change", [other_coefficient, other_position, other_layer])
def test_a_forged_event_diverges_and_breaks_the_seal(
    lm: tt.LoadedModel, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(f"sqlite:///{path}") as store:
        run_id = record_with(lm, store, intervention("steer")).run_id
    change_kept(path, lambda db: change_body(db, "InterventionApplied", change, turn=2))
    with tt.open_store(f"sqlite:///{path}") as store:
        report = tt.verify(store.recording(run_id), lm)

        assert report.verdict is tt.Verdict.DIVERGED
        assert "seal" in {cause.name for cause in report.causes}
        assert any(turn.logprob_difference_max > 1e-3 for turn in report.turns if turn.turn > 1)
        assert not tt.check(store, run_id).ok


def test_another_vector_in_its_place_diverges(lm: tt.LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(f"sqlite:///{path}") as store:
        run_id = record_with(lm, store, intervention("steer")).run_id
        other = tensor_to_bytes(vector(5))
        sha256 = hashlib.sha256(other).hexdigest()
        store.put_blob(sha256, other)

    def change(body: dict[str, Any]) -> None:
        body["tensor_sha256"] = sha256

    change_kept(path, lambda db: change_body(db, "InterventionApplied", change, turn=2))
    with tt.open_store(f"sqlite:///{path}") as store:
        assert tt.verify(store.recording(run_id), lm).verdict is tt.Verdict.DIVERGED


@pytest.mark.parametrize("damage", ["gone", "other bytes", "no tensor", "no store"])
def test_a_vector_that_is_not_what_was_recorded_is_refused_in_one_line(
    lm: tt.LoadedModel, store: DatabaseStore, damage: str
) -> None:
    recording = record_with(lm, store, intervention("steer"))
    payload = {"gone": None, "other bytes": b"other", "no tensor": b"{}"}.get(damage)

    def read(sha256: str) -> bytes:
        if payload is None:
            raise tt.StoreError(f"no blob {sha256}")
        return payload

    read_blob = None if damage == "no store" else read
    damaged = tt.Recording(recording.run_id, recording.read, read_blob=read_blob)
    for replay in (tt.verify, tt.regenerate):
        with pytest.raises(tt.ReplayError, match="intervention 'it' of run") as raised:
            replay(damaged, lm)
        assert "\n" not in str(raised.value)
    assert not tt.verify(damaged, lm, interventions=False).passes


def test_a_layer_that_the_model_does_not_have_is_refused(
    lm: tt.LoadedModel, make_lm: MakeLM, store: DatabaseStore
) -> None:
    recording = record_with(lm, store, intervention("steer", layer=2))
    smaller = make_lm("llama", num_hidden_layers=2)

    with pytest.raises(tt.ReplayError, match=r"no layer 'model\.layers\.2'"):
        tt.verify(recording, smaller, ignore=["weights"])


def test_a_tape_takes_the_vectors_along(
    lm: tt.LoadedModel, store: DatabaseStore, tmp_path: Path
) -> None:
    recording = record_with(lm, store, intervention("steer"))
    tape = tmp_path / "steered.tape"
    tt.pack([recording], store, tape)
    with tt.open_store(tape) as packed:
        assert tt.verify(packed.recording(recording.run_id), lm).verdict is tt.Verdict.VERIFIED


def test_a_redacted_run_has_no_vector_and_nothing_to_replay(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(
        lm,
        store=store,
        name="t",
        system_prompt="Be kind.",
        redactor=lambda text: text.replace("it", "##"),
    ) as run:
        run.intervene(intervention("steer"))
        run.chat("One?", max_new_tokens=3, **GREEDY)
    recording = store.recording(run.run_id)
    applied = [e.event for e in recording.events() if isinstance(e.event, InterventionApplied)]

    assert [each.name for each in applied] == ["##"]
    assert store.blob(applied[0].tensor_sha256) == b""
    with pytest.raises(tt.NothingToReplayError):
        tt.verify(recording, lm)


def test_the_command_line_replays_without_them_and_keeps_no_verdict(
    tiny_folder: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "runs.db"
    lm = tt.load_model(str(tiny_folder))
    with tt.open_store(f"sqlite:///{path}") as store:
        record_with(lm, store, intervention("steer"))
    asked = ("--store", str(path), "--json")

    assert cli("verify", *asked)[0] == 0
    for command in ("verify", "regenerate"):
        code, out, _ = cli(command, *asked, "--without-interventions")
        assert code == 1
        assert json.loads(out)["causes"][0]["name"] == "intervention"
    with tt.open_store(f"sqlite:///{path}") as store:
        assert list(tt.verdicts_df(store)["verdict"]) == ["verified"]


def test_sampled_turns_end_in_the_recorded_state(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=3) as run:
        run.intervene(intervention("steer", when=lambda state: state.input_ids[0, -1] % 2 == 0))
        run.chat("One?", max_new_tokens=20, **SAMPLED)
    recording = store.recording(run.run_id)
    (turn,) = recording.turns()

    assert len(turn.interventions) > 2
    proven(recording, lm, "steer")
