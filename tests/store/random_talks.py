"""Runs of any shape, drawn at random."""

import random
from dataclasses import replace

import tokentape as tt
from tests.made_events import run_started
from tests.store.made_families import RESUMED
from tests.store.made_runs import TICKS_US, token
from tokentape.recorder.events import (
    CacheDecided,
    HistoryPruned,
    InterventionApplied,
    InterventionRemoved,
    MessageAdded,
    PrefillCompleted,
    RunForked,
    SystemPromptCached,
    TokenSampled,
    ToolCalled,
    TurnFinished,
    TurnStarted,
    ids_sha256,
)
from tokentape.store import DatabaseStore


class Talk:
    """Records a conversation of any shape that a run can have, drawn at random."""

    def __init__(self, recorder: tt.Recorder, random_: random.Random) -> None:
        self.recorder, self.random = recorder, random_
        self.ids: list[int] = []
        self.text = ""
        self.turn = 0

    def begin(self) -> None:
        self.recorder.record(run_started())
        self._restart()

    def _restart(self) -> None:
        ids = tuple(self._draw(3))
        event = SystemPromptCached(
            content="s", text="sy", ids=ids, sha256=ids_sha256(ids), chunks=(3,), duration_us=1,
            kv_bytes=1,
        )  # fmt: skip
        self.recorder.record(event)
        self.ids, self.text = list(ids), "sy"

    def _draw(self, count: int) -> list[int]:
        # Few different ids, so that prompts often agree by value where they were built apart.
        return [self.random.randrange(2) for _ in range(count)]

    def add_turn(self, *, cut_off: bool = False) -> None:
        self.turn += 1
        if self.random.random() < 0.1:
            self._restart()
        if self.random.random() < 0.3:
            self.recorder.record(ToolCalled(call_id="c", name="look", arguments={}))
        if self.random.random() < 0.2 and len(self.ids) > 4:
            self._prune()
        step, rounds = 0, self.random.choice((1, 1, 2))
        for number in range(rounds):
            if number:
                call = ToolCalled(call_id="m", name="look", arguments={}, turn=self.turn)
                self.recorder.record(call)
            self._message(turn=self.turn if number else None)
            last = number == rounds - 1
            step = self._round(step, cut_off=cut_off and last, pauses=not last)

    def _message(self, turn: int | None) -> None:
        ids = tuple(self._draw(self.random.randrange(3)))
        text = "u" * len(ids)
        message = MessageAdded(role="user", content="?", text=text, ids=ids, turn=turn)
        self.recorder.record(message)
        self.ids += ids
        self.text += text

    def _prune(self) -> None:
        start = self.random.randrange(len(self.ids) - 1)
        end = self.random.randrange(start + 1, len(self.ids))
        event = HistoryPruned(
            turn=self.turn, policy="turns", reason="context",  # type: ignore[arg-type]
            removed_tokens=((start, end),), removed_chars=((0, 1),), removed_messages=(1,),
            tokens_before=len(self.ids), tokens_after=len(self.ids) - (end - start),
        )  # fmt: skip
        self.recorder.record(event)
        del self.ids[start:end]
        self.text = self.text[1:]

    def _round(self, step: int, *, cut_off: bool, pauses: bool) -> int:
        keeps_all = self.random.random() < 0.7
        kept = len(self.ids) if keeps_all else self.random.randrange(len(self.ids) + 1)
        chars = len(self.text) if keeps_all else self.random.randrange(len(self.text) + 1)
        added = tuple(self._draw(self.random.randrange(1, 4)))
        self.ids, self.text = [*self.ids[:kept], *added], self.text[:chars] + "u"
        prompt = len(self.ids)
        started = TurnStarted(
            turn=self.turn, prompt_tokens=prompt, kept_tokens=kept, kept_chars=chars,
            added_ids=added, added_text="u", history_reason="", seed=1, sampling={},
            first_step=step,
        )  # fmt: skip
        self.recorder.record(started)
        self._intervene(prompt)
        reused = self.random.randrange(1, prompt) if prompt > 1 else 0
        decided = CacheDecided(
            turn=self.turn, decision="hit" if reused else "miss",  # type: ignore[arg-type]
            reason="extends" if reused else "empty", prompt_tokens=prompt,
            reused_tokens=reused, computed_tokens=prompt - reused,
            cached_tokens=reused, cropped_tokens=0,
        )  # fmt: skip
        self.recorder.record(decided)
        self.recorder.record(
            PrefillCompleted(
                turn=self.turn, chunks=(prompt - reused,), duration_us=1, kv_bytes=1, peak_bytes=1
            )
        )
        count = self.random.randrange(1, 4)
        reply = self._draw(count)
        for number, token_id in enumerate(reply):
            self.recorder.record(self._token(prompt + number, step + number, token_id))
            self._intervene(prompt + number)
        if not cut_off:
            self._finish(reply, pauses=pauses)
        return step + count

    def _intervene(self, end: int) -> None:
        """Apply or remove one of two interventions, or neither."""
        drawn, name = self.random.random(), self.random.choice("xy")
        position = self.random.randrange(end)
        if drawn < 0.2:
            applied = InterventionApplied(
                turn=self.turn, position=position, name=name, kind="steer",  # type: ignore[arg-type]
                layers=("0",), coefficient=1.0, dimensions=(), tensor_sha256="", tensor_start=None,
                positions="all", schedule={}, source={},
            )  # fmt: skip
            self.recorder.record(applied)
        elif drawn < 0.3:
            self.recorder.record(InterventionRemoved(turn=self.turn, position=position, name=name))

    def _token(self, position: int, step: int, token_id: int) -> TokenSampled:
        made = token(self.turn, step, candidates=2)
        return replace(made, position=position, token_id=token_id)

    def _finish(self, reply: list[int], *, pauses: bool) -> None:
        event = TurnFinished(
            turn=self.turn, stop_reason="tool_call" if pauses else "eos",
            generated_tokens=len(reply), text="u" * len(reply), stop_text="",
            generator_sha256="", duration_us=1,
        )  # fmt: skip
        self.recorder.record(event)
        self.ids += reply
        self.text += "u" * len(reply)


def record_talk(store: DatabaseStore, random_: random.Random) -> str:
    """Record a run with turns that were cut off, or a fork of one, and return its id."""
    recorder = tt.Recorder(store, clock_us=TICKS_US.__next__)
    talk = Talk(recorder, random_)
    talk.begin()
    for _ in range(random_.randrange(1, 6)):
        cut_off = random_.random() < 0.2
        talk.add_turn(cut_off=cut_off)
        if cut_off:
            recorder = tt.Recorder.resume(
                store, store.recording(recorder.run_id), clock_us=TICKS_US.__next__
            )
            recorder.record(RESUMED)
            talk.recorder = recorder
    return recorder.run_id


def fork_of(store: DatabaseStore, run_id: str, random_: random.Random) -> str:
    """Record a fork at a turn after a finished one, and return its id."""
    parent = list(store.recording(run_id).events())
    ends = [
        each
        for each in parent
        if isinstance(each.event, TurnFinished) and each.event.stop_reason != "tool_call"
    ]
    if not ends:
        return run_id
    last = random_.choice(ends)
    at_turn = (last.turn or 0) + 1
    recorder = tt.Recorder(store, clock_us=TICKS_US.__next__)
    recorder.record(run_started())
    recorder.record(
        RunForked(
            parent_run_id=last.run_id,
            parent_seq=last.seq,
            parent_hash="",
            at_turn=at_turn,
            changes={},
        )
    )
    talk = Talk(recorder, random_)
    rounds = store.recording(run_id).turns()
    before = next(each for each in rounds if each.finished == last.event)
    talk.ids = [*before.prompt_ids, *before.reply_ids]
    talk.text = before.prompt_text + (before.reply_text or "")
    talk.turn = at_turn - 1
    for _ in range(random_.randrange(1, 3)):
        talk.add_turn()
    return recorder.run_id
