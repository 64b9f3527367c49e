"""Recorded replies with the face of a `ManualGenerator`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

from tokentape.recorder.escapes import visible
from tokentape.recorder.events import CacheDecided, SystemPromptCached
from tokentape.recorder.short_forms import counted
from tokentape.replay.playback.differences import PlaybackDifference
from tokentape.replay.playback.errors import PlaybackMismatchError
from tokentape.replay.playback.played_reply import PlayedReply
from tokentape.replay.playback.player import Place, Player
from tokentape.replay.playback.recorded_turns import RecordedRound
from tokentape.replay.playback.request_settings import check_playable, compare_settings
from tokentape.replay.playback.token_places import place_in_message, place_of
from tokentape.replay.run_diff.turn_diff import compare_texts, first_unequal

AskGenerator = Callable[[str, "str | Sequence[int]", Mapping[str, Any]], Mapping[str, Any]]
"""Answers a prompt after a system prompt with the model, where the playback does not."""


class PlayedGeneration(TypedDict):
    """The result of `PlayedGenerator.generate`: that of `ManualGenerator.generate`, and `tokens`.

    `tokens` are the sampled tokens with their log-probabilities. No tape has a KV cache.
    """

    generated_text: str
    generated_tokens: list[int]
    num_tokens: int
    cache_used: bool
    stop_reason: str
    seed: int | None
    prompt_tokens: int
    cache: CacheDecided | None
    past_key_values: None
    tokens: tuple[Any, ...]


class PlayedGenerator:
    """Answers prompts like the `ManualGenerator` that was recorded; `Playback` makes it.

    A prompt is answered by the first round not yet played that has it, with its settings.
    """

    def __init__(self, player: Player, ask_model: AskGenerator) -> None:
        self._player = player
        self._ask_model = ask_model
        self._system_prompt: str | None = None

    def cache_system_prompt(self, system_prompt: str) -> None:
        """Begin a conversation with a system prompt, which is compared with the next prompt."""
        self._system_prompt = system_prompt

    def begin_without_system_prompt(self) -> None:
        """Begin a conversation that has no system prompt."""
        self._system_prompt = ""

    def clear_cache(self, reason: str = "asked") -> None:
        """Do nothing: there is no cache."""

    def generate(self, prompt: str | Sequence[int], **settings: Any) -> Mapping[str, Any]:
        """Return the recorded reply to a prompt; see `ManualGenerator.generate`.

        Raise PlaybackMismatchError if no round is left that has this prompt and these settings.
        """
        __tracebackhide__ = True
        prefix = str(settings.pop("reply_prefix", "") or "")
        check_playable(settings)
        nearest: list[tuple[Place, PlaybackDifference]] = []

        def find(left: Sequence[Place]) -> int | None:
            for index, place in enumerate(left):
                difference = next(self._differences(place, prompt, prefix, settings), None)
                if difference is None:
                    nearest.clear()
                    return index
                nearest.append((place, difference))
            return 0 if nearest and self._player.mode == "warn" else None

        claimed = self._player.claim(find)
        if claimed is None and self._player.asks_model:
            more = {**settings, "reply_prefix": prefix} if prefix else settings
            return self._ask_model(self._system_prompt or "", prompt, more)
        for (run, *_), difference in nearest[:1]:
            self._player.report(difference, run.described)
        if claimed is None:
            raise PlaybackMismatchError(
                f"the application gives one prompt more than {visible(self._player.where)} has: "
                f"{counted(len(self._player.runs), 'run')}, all of whose rounds were played"
            )
        reply = generation_of(claimed)
        if callback := settings.get("callback"):
            for token_id in reply["generated_tokens"]:
                callback(token_id, None)
        return reply

    def _differences(
        self, place: Place, prompt: str | Sequence[int], prefix: str, settings: Mapping[str, Any]
    ) -> Iterator[PlaybackDifference]:
        run, turn, round_ = place
        where = PlaybackDifference(turn=turn.number, round=round_.number, what="")
        yield from self._compare_prompt(place, prompt)
        forced = bool(round_.turn.started.forced_ids)
        if forced != bool(prefix) or not round_.text.startswith(prefix):
            yield _with(where, "the beginning of the reply that the experimenter chose")
        for each in compare_settings(
            round_.turn,
            settings,
            model_config=run.started.generation_config,
            seed=settings.get("seed"),
        ):
            yield _with(where, f"the setting {each.name}", each.recorded, each.now)

    def _compare_prompt(
        self, place: Place, prompt: str | Sequence[int]
    ) -> Iterator[PlaybackDifference]:
        run, turn, round_ = place
        message = turn.message
        if not isinstance(prompt, str):
            yield from _compare_ids(place, [int(each) for each in prompt])
            return
        if self._system_prompt is not None and round_.system is not None:
            yield from _compare_text(place, round_.system, self._system_prompt)
        if message is not None:
            found = compare_texts(message.content, prompt)
            at = None
            if found is not None:
                at = place_in_message(round_, message, found.index, run.texts)
        else:
            found, at = compare_texts(round_.turn.prompt_text, prompt), None
        if found is not None:
            yield PlaybackDifference(
                turn=turn.number, round=round_.number, what="the prompt", text=found, place=at
            )


def _compare_text(
    place: Place, system: SystemPromptCached, given: str
) -> Iterator[PlaybackDifference]:
    run, turn, round_ = place
    found = compare_texts(system.content, given)
    if found is not None:
        yield PlaybackDifference(
            turn=turn.number,
            round=round_.number,
            what="the system prompt",
            text=found,
            place=place_in_message(round_, system, found.index, run.texts),
        )


def _compare_ids(place: Place, ids: Sequence[int]) -> Iterator[PlaybackDifference]:
    run, turn, round_ = place
    recorded = round_.turn.prompt_ids
    index = first_unequal(tuple(recorded), tuple(ids))
    if index is None:
        return
    ended = index >= len(recorded)
    yield PlaybackDifference(
        turn=turn.number,
        round=round_.number,
        what="the prompt, given as ids,",
        place=None if ended else place_of(recorded, index, index, run.texts),
        now_id=ids[index] if index < len(ids) else None,
        recorded=f"{counted(len(recorded), 'token')}" if ended else "",
        now=f"{counted(len(ids), 'token')}" if ended else "",
    )


def _with(
    where: PlaybackDifference, what: str, recorded: object = None, now: object = None
) -> PlaybackDifference:
    return PlaybackDifference(
        turn=where.turn,
        round=where.round,
        what=what,
        recorded="" if recorded is None else repr(recorded),
        now="" if now is None else repr(now),
    )


def generation_of(place: Place) -> PlayedGeneration:
    """Return the reply of a round as `generate` returns one."""
    _, turn, round_ = place
    reply = PlayedReply.of(turn).rounds[round_.number - 1]
    return PlayedGeneration(
        generated_text=reply.text,
        generated_tokens=list(reply.token_ids),
        num_tokens=len(reply.token_ids),
        cache_used=_reuses(round_),
        stop_reason=reply.stop_reason,
        seed=reply.seed,
        prompt_tokens=round_.turn.started.prompt_tokens,
        cache=reply.cache,
        past_key_values=None,
        tokens=reply.tokens,
    )


def _reuses(round_: RecordedRound) -> bool:
    return round_.turn.cache is not None and round_.turn.cache.reused_tokens > 0
