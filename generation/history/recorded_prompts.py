"""The recorded prompts and system prompts, without rendering them again.

A chat template may write another date or, in a newer version, other text than it did when a run was
recorded. The recorded ids and texts remain the history of the run.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from tokentape.generation.errors import PromptError
from tokentape.generation.hf.control_tokens import escape_control_tokens
from tokentape.generation.history.chat_template import ChatTemplate
from tokentape.generation.history.messages import Message, NewMessage
from tokentape.generation.history.prompt import OWN_PROMPT, Prompt
from tokentape.generation.history.pruning import Pruning
from tokentape.generation.history.segments import Segment, ids_of, with_messages_only
from tokentape.generation.history.suffix import EncodedText
from tokentape.recorder.events import HistoryPruned, SystemPromptCached
from tokentape.recorder.projections import Turn


def recorded_system_prompt(
    template: ChatTemplate, system: SystemPromptCached
) -> tuple[Segment, ...]:
    """Return the segment of a recorded system prompt; none for an empty one."""
    if not system.content:
        return ()
    message: Message = {"role": "system", "content": system.content}
    is_complete = True
    if template.tokenizer.chat_template is not None:
        try:
            _, is_complete = template.system_prefix(message)
        except PromptError:
            is_complete = False
    return (
        Segment(
            role="system" if is_complete else "prefix",
            turn=0,
            messages=(message,),
            ids=system.ids,
            escaped=_escaped(template.tokenizer, system.text, [system.content]),
            text=system.text,
        ),
    )


def prompt_as_recorded(
    tokenizer: PreTrainedTokenizerBase,
    segments: Sequence[Segment],
    turn: Turn,
    new: Sequence[NewMessage],
    *,
    history: str,
) -> Prompt:
    """Return the recorded prompt of a turn that follows these segments.

    `new` are its messages. The prompt extends the segments as far as its ids do.
    """
    started, pruned = turn.started, turn.pruned
    pruning = None if pruned is None else _pruning(segments, pruned)
    removed = frozenset[int]() if pruning is None else pruning.segments
    remaining = [each for index, each in enumerate(segments) if index not in removed]
    following: tuple[Segment, ...] = ()
    if history == "template":
        following = with_messages_only(remaining, new)
    elif started.history_reason != OWN_PROMPT:
        following = _following(tokenizer, remaining, turn, new)
    return replace(
        prompt_of(turn),
        segments=following,
        pruning=pruning,
        stream_tokens=0 if pruned is None else pruned.tokens_before,
    )


def prompt_of(turn: Turn) -> Prompt:
    """Return the recorded prompt of a turn, without segments: no later prompt extends it."""
    started = turn.started
    return Prompt(
        ids=turn.prompt_ids,
        text=turn.prompt_text,
        messages=turn.messages,
        kept_tokens=started.kept_tokens,
        kept_chars=started.kept_chars,
        added_ids=started.added_ids,
        added_text=started.added_text,
        history_reason=started.history_reason,
    )


def _following(
    tokenizer: PreTrainedTokenizerBase,
    segments: Sequence[Segment],
    turn: Turn,
    new: Sequence[NewMessage],
) -> tuple[Segment, ...]:
    """Return the segments and those of the turn's messages and of the opening of its reply."""
    contents = [each.content for each in new]
    messages = [each.to_message() for each in new]
    before = ids_of(segments)
    text = "".join(segment.text for segment in segments)
    if turn.prompt_ids[: len(before)] != before or not turn.prompt_text.startswith(text):
        everything = EncodedText(_escaped(tokenizer, turn.prompt_text, contents), turn.prompt_ids)
        earlier = [message for segment in segments for message in segment.messages]
        return (Segment.of("history", 0, everything, *earlier, *messages),)
    last = segments[-1] if segments else None
    number = (last.turn if last else 0) + 1
    ids = turn.prompt_ids[len(before) :]
    added = tuple(i for message in turn.messages for i in message.ids)
    separate = all(message.ids for message in turn.messages)
    if not separate or (*added, *turn.started.added_ids) != ids:
        escaped = _escaped(tokenizer, turn.prompt_text[len(text) :], contents)
        role = new[0].role if new else "assistant"
        return (*segments, Segment.of(role, number, EncodedText(escaped, ids), *messages))
    return (
        *segments,
        *(
            Segment.of(
                each.role,
                number,
                EncodedText(_escaped(tokenizer, each.text, [each.content]), each.ids),
                message,
                # The first text also closes the reply before it, and is not removed alone.
                is_result=index > 0 and new[index].is_result,
            )
            for index, (each, message) in enumerate(zip(turn.messages, messages, strict=True))
        ),
        Segment.of(
            "assistant", number, EncodedText(turn.started.added_text, turn.started.added_ids)
        ),
    )


def _pruning(segments: Sequence[Segment], pruned: HistoryPruned) -> Pruning:
    ends = list(accumulate(len(segment.messages) for segment in segments))
    gone = set(pruned.removed_messages)
    chosen = frozenset(
        index
        for index, (segment, end) in enumerate(zip(segments, ends, strict=True))
        if segment.messages and gone.issuperset(range(end - len(segment.messages), end))
    )
    return Pruning(
        policy=pruned.policy,
        reason=pruned.reason,
        segments=chosen,
        removed_messages=pruned.removed_messages,
        removed_tokens=pruned.removed_tokens,
        removed_chars=pruned.removed_chars,
    )


def _escaped(tokenizer: PreTrainedTokenizerBase, text: str, contents: Sequence[str]) -> str:
    """Return a recorded text with the control tokens in the users' contents escaped again."""
    for content in contents:
        escaped = escape_control_tokens(tokenizer, content)
        if content and escaped != content:
            text = text.replace(content, escaped)
    return text
