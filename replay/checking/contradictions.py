"""What of a recording contradicts itself: told without the model's numbers."""

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from tokentape.generation.errors import ToolError
from tokentape.generation.history.conversation import decode_after
from tokentape.generation.run_settings import RunSettings
from tokentape.generation.tools.calls import CallReader
from tokentape.generation.tools.interface import ToolInterface
from tokentape.recorder import Recording
from tokentape.recorder.events import StopReason
from tokentape.recorder.projections import Turn
from tokentape.recorder.seals import check_seals
from tokentape.replay.checking.tool_results import altered_tool_results
from tokentape.replay.rebuild import find_altered
from tokentape.replay.verdict import Cause


def find_alterations(
    recording: Recording, turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase | None
) -> list[Cause]:
    """Every contradiction, the seals' last: these say only that something was changed.

    Texts of replies are read with the tokenizer, where it is the recorded one.
    """
    found = [Cause(name="recording", sentence=each) for each in find_altered(recording)]
    found += [
        Cause(name="tool_result", sentence=sentence, turn=turn)
        for turn, sentence in altered_tool_results(recording)
    ]
    if tokenizer is not None:
        found += _altered_texts(turns, tokenizer)
        found += _pauses_without_a_call(recording, turns, tokenizer)
    return [*found, *_broken_seal(recording)]


def _altered_texts(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase) -> Iterator[Cause]:
    for turn in turns:
        if turn.finished is not None:
            recorded = turn.finished.text + turn.finished.stop_text
            if recorded != decode_after(tokenizer, turn.prompt_ids, turn.reply_ids):
                sentence = f"turn {turn.number}: the text of the reply is not what its ids spell"
                yield Cause(name="text", sentence=sentence, turn=turn.number)


def _pauses_without_a_call(
    recording: Recording, turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Cause]:
    started = recording.started()
    tools = ToolInterface.from_names(started.tools)
    call_format = RunSettings.from_record(started.settings).tool_call_format
    try:
        reader = CallReader(tokenizer, tools, call_format)
    except ToolError as error:
        yield Cause(name="tool_result", sentence=f"calls of tools cannot be read: {error}")
        return
    for turn in turns:
        finished = turn.finished
        if finished is None or finished.stop_reason != StopReason.TOOL_CALL:
            continue
        if not reader.completed(finished.text, prefix=turn.prompt_text):
            sentence = f"turn {turn.number} pauses for a tool, and its reply calls none there"
            yield Cause(name="stop", sentence=sentence, turn=turn.number)


def _broken_seal(recording: Recording) -> Iterator[Cause]:
    """The first seal that does not hold. A run from before there were seals has none to break."""
    if not any(record.seal for record in recording.records()):
        return
    report = check_seals(recording.run_id, recording.records())
    if not report.holds:
        where = "the run" if report.bad_turn is None else f"turn {report.bad_turn}"
        yield Cause(
            name="seal",
            sentence=f"{where} is not what was sealed: {report.fault}",
            turn=report.bad_turn,
        )
