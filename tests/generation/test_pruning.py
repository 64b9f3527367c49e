"""A history that is too long loses complete messages or turns, which are recorded."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import tokentape as tt
from tokentape.generation.history.context_limit import extend_within
from tokentape.generation.history.conversation import Conversation
from tokentape.generation.history.messages import NewMessage
from tokentape.generation.history.pruning import plan_pruning, remove_ranges
from tokentape.generation.history.segments import SegmentRange
from tokentape.recorder.events import HistoryPruned

EOS = 2
# A system prompt, then turns with a result each, in ranges of 10 tokens and 20 characters.
ROLES = ["system", *["user", "tool", "assistant"] * 3]
FOLDS_SYSTEM = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
    "{% if loop.index0 == 1 %}{{ messages[0]['content'] }} {% endif %}"
    "{{ message['content'] }} [/INST]{% elif message['role'] == 'tool' %}[R]"
    "{{ message['content'] }}[/R]{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] }}<|im_end|>{% endif %}{% endfor %}"
)


def spans(roles: Sequence[str] = tuple(ROLES), *, system_tokens: int = 10) -> list[SegmentRange]:
    made, turn, at = [], 0, 0
    for index, role in enumerate(roles):
        turn += role == "user"
        end = at + (10 if index or role != "system" else system_tokens)
        made.append(
            SegmentRange(
                role=role,
                turn=turn,
                messages=1,
                holds_reply=role == "assistant",
                is_result=role == "tool",
                tokens=(at, end),
                chars=(2 * at, 2 * end),
            )
        )
        at = end
    return made


@pytest.mark.parametrize(
    ("policy", "excess_tokens", "removed_tokens", "removed_messages"),
    [
        ("tool_results", 1, ((20, 30),), (2,)),
        ("tool_results", 11, ((20, 30), (50, 60)), (2, 5)),
        ("tool_results", 30, ((20, 30), (50, 60), (80, 90)), (2, 5, 8)),
        ("turns", 1, ((10, 40),), (1, 2, 3)),
        ("turns", 31, ((10, 70),), (1, 2, 3, 4, 5, 6)),
        ("turns", 90, ((10, 100),), tuple(range(1, 10))),
    ],
)
def test_the_oldest_segments_are_removed_until_it_is_enough(
    policy: str,
    excess_tokens: int,
    removed_tokens: tuple[tuple[int, int], ...],
    removed_messages: tuple[int, ...],
) -> None:
    pruning = plan_pruning(spans(), policy=policy, excess_tokens=excess_tokens)

    assert pruning is not None
    assert pruning.removed_tokens == removed_tokens
    assert pruning.removed_chars == tuple((2 * a, 2 * b) for a, b in removed_tokens)
    assert pruning.removed_messages == removed_messages
    assert str(excess_tokens) in pruning.reason


def test_there_is_no_plan_if_all_segments_are_not_enough() -> None:
    assert plan_pruning(spans(), policy="tool_results", excess_tokens=31) is None
    assert plan_pruning(spans(), policy="turns", excess_tokens=91) is None
    assert plan_pruning(spans()[:1], policy="turns", excess_tokens=1) is None
    with pytest.raises(tt.PromptError, match="not 'everything'"):
        plan_pruning(spans(), policy="everything", excess_tokens=1)


def test_the_current_question_stays() -> None:
    """Check a question whose tool results come in turns without a user's message."""
    asked = plan_pruning(spans(), policy="turns", excess_tokens=60, keep_question=True)

    assert asked is not None
    assert asked.removed_messages == (1, 2, 3, 4, 5, 6)
    assert plan_pruning(spans(), policy="turns", excess_tokens=61, keep_question=True) is None


def test_a_result_that_shares_a_token_with_the_reply_stays() -> None:
    call, answer = spans(["user", "assistant"]), spans(["user", "assistant", "tool", "assistant"])
    joined = plan_pruning(answer, policy="tool_results", excess_tokens=1)
    apart = [*call, *(dataclasses.replace(span, turn=2) for span in answer[2:])]

    assert joined is None
    assert plan_pruning(apart, policy="tool_results", excess_tokens=1) is not None


@pytest.mark.parametrize(
    ("policy", "removed"), [("tool_results", ((20, 30),)), ("turns", ((10, 40),))]
)
def test_a_result_with_the_role_of_the_user_is_a_result(
    policy: str, removed: tuple[tuple[int, int], ...]
) -> None:
    as_user = [
        dataclasses.replace(span, role="user") if span.is_result else span for span in spans()
    ]
    pruning = plan_pruning(as_user, policy=policy, excess_tokens=1)

    assert pruning is not None
    assert pruning.removed_tokens == removed


@pytest.mark.parametrize("roles", [ROLES[1:], ROLES])
def test_a_first_message_with_the_system_prompt_stays(roles: list[str]) -> None:
    folded = spans(roles, system_tokens=0)
    pruning = plan_pruning(folded, policy="turns", excess_tokens=1)
    results = plan_pruning(folded, policy="tool_results", excess_tokens=1)
    first = roles.index("user")

    assert pruning is not None
    assert pruning.removed_messages == (first + 3, first + 4, first + 5)
    assert results is not None
    assert results.removed_messages == (first + 1,)


cuts = st.lists(st.integers(0, 12), max_size=8, unique=True).map(sorted)


@given(st.lists(st.integers(), min_size=12, max_size=12), cuts)
def test_the_remaining_items_keep_their_order(stream: list[int], bounds: list[int]) -> None:
    ranges = list(zip(bounds[::2], bounds[1::2], strict=False))
    inside = {index for start, end in ranges for index in range(start, end)}

    assert remove_ranges(stream, ranges) == tuple(
        v for i, v in enumerate(stream) if i not in inside
    )


def say(conversation: Conversation, *new: NewMessage, reply: str, ended: bool = True) -> None:
    """Run a turn with a reply of one token per character."""
    conversation.begin_turn(conversation.extend(new))
    ids = conversation.tokenizer.encode(reply, add_special_tokens=False)
    conversation.finish_turn([*ids, EOS] if ended else ids, reply, "<|im_end|>" if ended else "")


def talk(
    tokenizer: PreTrainedTokenizerFast, end: str = ".", cut: int = 1, **given: Any
) -> Conversation:
    """Return four turns with results; every other reply, from `cut` on, is cut off."""
    conversation = Conversation(tokenizer, **given)
    conversation.restart("Be <|im_end|>kind.")
    for number in range(4):
        say(
            conversation,
            NewMessage(role="user", content=f"Question {number}<|im_start|>?"),
            NewMessage(role="tool", content=f"Result {number}"),
            reply=f"Answer {number}{end}",
            ended=number % 2 != cut,
        )
    return conversation


NEXT = [NewMessage(role="user", content="And now?")]


@pytest.mark.parametrize("policy", ["tool_results", "turns"])
@pytest.mark.parametrize("history", ["exact", "template"])
@pytest.mark.parametrize("excess_tokens", [1, 40, 80])
def test_a_pruned_conversation_is_the_rendering_of_its_messages(
    tokenizer: PreTrainedTokenizerFast, policy: str, history: str, excess_tokens: int
) -> None:
    conversation = talk(tokenizer, history=history)
    before = conversation.ids, conversation.text, conversation.messages
    pruning = plan_pruning(
        conversation.segment_ranges(), policy=policy, excess_tokens=excess_tokens
    )
    assert pruning is not None or (policy, excess_tokens) == ("tool_results", 80)
    if pruning is None:
        return
    prompt = conversation.extend_pruned(NEXT, pruning)
    left = [m for i, m in enumerate(before[2]) if i not in pruning.removed_messages]
    theirs = tokenizer.apply_chat_template(
        [*left, NEXT[0].to_message()], tokenize=False, add_generation_prompt=True
    )

    assert prompt.text == theirs
    assert tokenizer.decode(list(prompt.ids), skip_special_tokens=False) == theirs
    assert (conversation.ids, conversation.text, conversation.messages) == before
    conversation.begin_turn(prompt)
    conversation.finish_turn([*tokenizer.encode("C"), EOS], "C", "<|im_end|>")
    assert conversation.messages[:-1] == [*left, NEXT[0].to_message()]
    assert conversation.extend(NEXT).history_reason == ""


def test_segment_ranges_are_the_positions_of_the_messages(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    conversation = talk(tokenizer)
    lengths = set()
    for span, message in zip(conversation.segment_ranges(), conversation.messages, strict=True):
        ids = conversation.ids[slice(*span.tokens)]
        text = conversation.text[slice(*span.chars)]
        lengths.add(span.tokens[1] - span.tokens[0])

        assert span.role == message["role"]
        assert message["content"] in text
        assert tokenizer.decode(list(ids), skip_special_tokens=False) == text
        assert text.startswith(f"<|im_start|>{span.role}\n")
    assert [span.turn for span in conversation.segment_ranges()] == [0, *sorted([1, 2, 3, 4] * 3)]
    assert conversation.segment_ranges()[-1].tokens[1] == len(conversation.ids)


@pytest.mark.parametrize("end", [".", ". "])
def test_a_system_prompt_in_the_first_message_survives_every_pruning(
    tokenizer: PreTrainedTokenizerFast, end: str
) -> None:
    """Check it also if the template would now render the first reply differently."""
    trims = FOLDS_SYSTEM.replace("message['content'] }}<|", "message['content'] | trim }}<|")
    tokenizer.chat_template, before = trims, tokenizer.chat_template
    try:
        conversation = talk(tokenizer, end, cut=0)
        pruning = plan_pruning(conversation.segment_ranges(), policy="turns", excess_tokens=150)
        assert pruning is not None
        prompt = conversation.extend_pruned(NEXT, pruning)
    finally:
        tokenizer.chat_template = before

    assert prompt.text.startswith("[INST] Be <|im_end|>kind. Question 0")
    assert prompt.text.count("Question") == 1
    assert prompt.text.endswith(f"Answer 0{end}<|im_end|>[INST] And now? [/INST]")
    assert prompt.history_reason == ""


def test_after_an_own_prompt_the_removed_range_is_the_rest_of_the_stream(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    conversation = talk(tokenizer)
    conversation.begin_turn(conversation.own_prompt("Alone?"))
    conversation.finish_turn([70, EOS], "C", "<|im_end|>")
    pruning = plan_pruning(conversation.segment_ranges(), policy="turns", excess_tokens=1)
    assert pruning is not None
    prompt = conversation.extend_pruned(NEXT, pruning)
    event = prompt.events(6)[0]

    assert isinstance(event, HistoryPruned)
    assert event.removed_tokens == ((prompt.kept_tokens, len(conversation.ids)),)
    assert prompt.ids == (*conversation.ids[: prompt.kept_tokens], *prompt.added_ids)
    assert "Question 0" not in prompt.text
    assert "Question 1" in prompt.text


GROWS = "{{ 'x' * (60 - 4 * messages | length) }}" + FOLDS_SYSTEM


def test_text_that_the_template_adds_after_pruning_is_compensated(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Check a template whose text grows as messages are removed."""
    tokenizer.chat_template, before = GROWS, tokenizer.chat_template
    try:
        conversation = talk(tokenizer, history="template")
        maximum = len(conversation.extend(NEXT).ids) - 65
        prompt = extend_within(
            conversation, NEXT, prompt_tokens_max=maximum, at_context_limit="prune_turns"
        )
    finally:
        tokenizer.chat_template = before

    assert prompt.pruning is not None
    assert len(prompt.ids) <= maximum
    assert len(prompt.pruning.removed_messages) > 3


def test_a_prompt_that_fits_is_not_pruned(tokenizer: PreTrainedTokenizerFast) -> None:
    conversation = talk(tokenizer)
    whole = conversation.extend(NEXT)
    for maximum in (None, len(whole.ids)):
        assert (
            extend_within(
                conversation, NEXT, prompt_tokens_max=maximum, at_context_limit="prune_turns"
            )
            == whole
        )
    pruned = extend_within(
        conversation, NEXT, prompt_tokens_max=len(whole.ids) - 1, at_context_limit="prune_turns"
    )
    assert len(pruned.ids) < len(whole.ids)
