"""Contradictions within a recording, found without the model's numbers."""

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from tokentape.generation.errors import ToolError
from tokentape.generation.run_settings import RunSettings
from tokentape.generation.tools.calls import CallReader
from tokentape.generation.tools.interface import ToolInterface
from tokentape.recorder.events.turn import CALLS
from tokentape.recorder.projections import Turn, join_continued
from tokentape.replay.recorded.loaded_run import LoadedRun
from tokentape.replay.recorded.reply_texts import is_text_of_turn
from tokentape.replay.recorded.tool_contradictions import tool_contradictions
from tokentape.replay.results.report import Cause
from tokentape.replay.results.verdict import CauseKind


def find_contradictions(
    run: LoadedRun, turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase | None
) -> list[Cause]:
    """Return every contradiction of a run as a cause.

    The broken seal comes last: it says only that something was changed. The texts of the replies of
    `turns` are compared with their ids if a tokenizer is given, which must be the recorded one.
    """
    found = [Cause(name=CauseKind.RECORDING, sentence=each) for each in run.broken_prompt_hashes()]
    found += [
        Cause(name=CauseKind.TOOL_RESULT, sentence=sentence, turn=turn)
        for turn, sentence in tool_contradictions(run)
    ]
    if tokenizer is not None:
        found += _texts_unlike_their_ids(turns, tokenizer)
        found += _pauses_without_a_call(run, turns, tokenizer)
    return [*found, *_broken_seal(run)]


def _texts_unlike_their_ids(
    turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Cause]:
    for turn in turns:
        if turn.finished is not None:
            recorded = turn.finished.text + turn.finished.stop_text
            if not is_text_of_turn(tokenizer, recorded, turn):
                sentence = f"turn {turn.number}: the ids of the reply do not decode to its text"
                yield Cause(name=CauseKind.TEXT, sentence=sentence, turn=turn.number)


def _pauses_without_a_call(
    run: LoadedRun, turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Cause]:
    tools = ToolInterface.from_names(run.started.tools)
    call_format = RunSettings.from_record(run.started.settings).tool_call_format
    try:
        reader = CallReader(tokenizer, tools, call_format)
    except ToolError as error:
        sentence = f"tool calls cannot be read: {error}"
        yield Cause(name=CauseKind.TOOL_RESULT, sentence=sentence)
        return
    numbers = {turn.number for turn in turns}
    for turn in join_continued(run.turns):
        finished = turn.finished
        if turn.number not in numbers:
            continue
        if finished is None or finished.stop_reason not in CALLS:
            continue
        if not reader.completed(finished.text, prefix=turn.prompt_text):
            sentence = f"turn {turn.number} pauses for a tool, but its reply calls none there"
            yield Cause(name=CauseKind.STOP, sentence=sentence, turn=turn.number)


def _broken_seal(run: LoadedRun) -> Iterator[Cause]:
    """Yield the first seal that does not match; a run without any seal has none to break."""
    report = run.seals
    if report is None or report.ok:
        return
    where = "the run" if report.bad_turn is None else f"turn {report.bad_turn}"
    yield Cause(
        name=CauseKind.SEAL,
        sentence=f"{where} does not match its seal: {report.fault}",
        turn=report.bad_turn,
    )
