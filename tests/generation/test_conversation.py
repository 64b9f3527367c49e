"""A history is extended by ids, or the prompt has a reason why not."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

import tokentape as tt
from tokentape.generation.engine.turn import turn_settings
from tokentape.generation.history.conversation import Conversation
from tokentape.generation.history.messages import NewMessage
from tokentape.store import DatabaseStore

USER = NewMessage(role="user", content="What of layer 3?")
TOOL = NewMessage(role="tool", content='{"mean": 0.5}', tool_call_id="call_1")


def spelled(tokenizer: PreTrainedTokenizerFast, ids: tuple[int, ...]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def assert_prompt_is_the_templates(
    lm: tt.LoadedModel, settings: dict[str, object], turns: int = 5
) -> None:
    """Check that the text is the rendering of the messages, and the ids outside of replies."""
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.cache_system_prompt("You are the subject. Be brief.")
    replies: list[tuple[int, tuple[int, ...]]] = []
    for index in range(turns):
        new = [USER] if index % 2 else [USER, TOOL]
        prompt = generator.conversation.extend(new)
        messages = [
            *generator.conversation.messages,
            *({"role": m.role, "content": m.content} for m in new),
        ]
        whole = lm.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        assert prompt.history_reason == ""
        assert prompt.text == whole
        assert spelled(lm.tokenizer, prompt.ids) == whole
        outside = _without_replies(lm, prompt.ids, replies, messages)
        assert outside[0] == outside[1], f"turn {index + 1}"
        # The ids of each message decode to its text, and the messages are adjacent.
        for message in prompt.messages:
            assert spelled(lm.tokenizer, message.ids) == message.text
        chosen = turn_settings(lm.model, seed=index, max_new_tokens=12, **settings)
        turn = generator.run_turn(prompt, chosen)
        replies.append((len(prompt.ids), turn.token_ids))


def _without_replies(
    lm: tt.LoadedModel,
    ids: tuple[int, ...],
    replies: list[tuple[int, tuple[int, ...]]],
    messages: list[dict[str, str]],
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the ids between replies, in the prompt and in the encoded rendering."""
    ours, start = [], 0
    for at, reply in replies:
        assert ids[at : at + len(reply)] == reply
        ours.append(list(ids[start:at]))
        start = at + len(reply)
    ours.append(list(ids[start:]))
    theirs, before, text_before = [], 0, ""
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            opened = lm.tokenizer.apply_chat_template(
                messages[:number], tokenize=False, add_generation_prompt=True
            )
            theirs.append(_encode(lm, opened[before:]))
            ended_by_eos = ids[replies[len(theirs) - 1][0] + len(replies[len(theirs) - 1][1]) - 1]
            text_before = opened + message["content"]
            if ended_by_eos == lm.tokenizer.eos_token_id:
                text_before += lm.tokenizer.eos_token
            before = len(text_before)
    whole = lm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    theirs.append(_encode(lm, whole[before:]))
    return ours, theirs


def _encode(lm: tt.LoadedModel, text: str) -> list[int]:
    return list(lm.tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize(
    "settings", [{"do_sample": False}, {"do_sample": True, "temperature": 1.5, "top_k": 0}]
)
def test_every_prompt_equals_the_rendering_on_a_tiny_model(
    lm: tt.LoadedModel, settings: dict[str, object]
) -> None:
    assert_prompt_is_the_templates(lm, settings)


@pytest.mark.demo_model
@pytest.mark.parametrize(
    "settings", [{"do_sample": False}, {"do_sample": True, "temperature": 1.5, "top_k": 0}]
)
def test_every_prompt_equals_the_rendering_on_the_demo_model(
    demo_lm: tt.LoadedModel, settings: dict[str, object]
) -> None:
    assert_prompt_is_the_templates(demo_lm, settings)


def test_without_a_system_prompt_that_of_the_template_occurs_once(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    settings = turn_settings(lm.model, max_new_tokens=4, do_sample=False)
    for _ in range(3):
        prompt = generator.conversation.extend([USER])
        generator.run_turn(prompt, settings)

    assert prompt.text.count("Be brief.") == 1
    assert prompt.history_reason == ""


def test_a_reply_keeps_the_ids_that_were_sampled(lm: tt.LoadedModel) -> None:
    """Check replies whose text encodes to other ids, or contains incomplete characters."""
    conversation = Conversation(lm.tokenizer)
    conversation.restart("Be kind.")
    conversation.begin_turn(conversation.extend([USER]))
    broken = (250, 251, 252)
    text = spelled(lm.tokenizer, broken)
    conversation.finish_turn(broken, text, "")
    prompt = conversation.extend([USER])

    assert lm.tokenizer.encode(text, add_special_tokens=False) != list(broken)
    assert prompt.history_reason == ""
    assert prompt.ids[prompt.kept_tokens - len(prompt.messages[0].ids) :][:1] != ()
    at = prompt.ids.index(250)
    assert prompt.ids[at : at + 3] == broken


def test_a_template_that_raises_is_a_prompt_error(tokenizer: PreTrainedTokenizerFast) -> None:
    before = tokenizer.chat_template
    tokenizer.chat_template = "{{ raise_exception('no tools here') }}"
    try:
        with pytest.raises(tt.PromptError, match="rejects this conversation: no tools here"):
            Conversation(tokenizer).extend([USER])
    finally:
        tokenizer.chat_template = before


def test_rebuilt_prompts_are_those_of_the_run(
    lm: tt.LoadedModel, store: object, record: Callable[..., tt.Recording]
) -> None:
    recording = record(lm, store)
    for turn in recording.turns():
        assert spelled(lm.tokenizer, turn.prompt_ids) == turn.prompt_text


def test_only_two_histories_are_known(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(tt.PromptError, match="'exact' or 'template', not 'exakt'"):
        Conversation(tokenizer, history="exakt")
    with pytest.raises(tt.PromptError, match="cannot contain 'tokenize'"):
        Conversation(tokenizer, template_settings={"tokenize": True})


@pytest.mark.parametrize("history", ["exact", "template"])
def test_a_run_records_its_kind_of_history(
    lm: tt.LoadedModel, store: DatabaseStore, history: str
) -> None:
    with tt.Investigation(
        lm, store=store, name="t", system_prompt="Be kind.", history=history
    ) as run:
        for _ in range(3):
            # A temperature that gives incomplete characters, which no template reproduces.
            run.chat("Hi", max_new_tokens=6, do_sample=True, temperature=3.0)
    recording = store.recording(run.run_id)
    reasons = [turn.started.history_reason for turn in recording.turns()]

    assert recording.started().settings["history"] == history
    assert ("template" in reasons) == (history == "template")
    assert tt.rebuild(recording).turns[-1].prompt_text.count("<|im_start|>user") == 3
    assert tt.verify(recording, lm).passes
    assert tt.regenerate(recording, lm).verdict.name == "EXACT"
