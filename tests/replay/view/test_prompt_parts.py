"""The parts of a prompt: messages as they were given, and the template's text around them."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tokentape.replay.view.prompt_parts import AddedMessage, prompt_parts

texts = st.text("ab <\n", min_size=1, max_size=6)


def _message(content: str, text: str, index: int = 0, first_token: int = 0) -> AddedMessage:
    return AddedMessage(
        role="user",
        content=content,
        text=text,
        tokens=len(text),
        first_token=first_token,
        index=index,
    )


def _shown(parts: list[dict[str, Any]]) -> list[tuple[str, str, bool]]:
    return [(each["role"], each["text"], each["injected"]) for each in parts]


def test_a_message_is_its_content_between_text_of_the_template() -> None:
    parts = prompt_parts([_message("hi", "<user>hi</user>")], "<reply>", 2, 15)

    assert _shown(parts) == [
        ("template", "<user>", True),
        ("user", "hi", False),
        ("template", "</user>", True),
        ("template", "<reply>", True),
    ]
    assert [each["tokens"] for each in parts] == [None, 15, None, 2]


def test_a_content_that_the_template_strips_is_found() -> None:
    parts = prompt_parts([_message(" hi\n", "<user>hi</user>")], "", 0, 15)

    assert _shown(parts)[1] == ("user", "hi", False)


def test_a_content_that_the_template_rewrites_is_shown_with_what_it_became() -> None:
    (part,) = prompt_parts([_message("hi", "<user>HI</user>")], "", 0, 15)

    assert (part["role"], part["text"]) == ("user", "<user>HI</user>")


def test_a_history_that_is_rendered_again_has_its_messages_in_the_added_text() -> None:
    messages = [_message("yes", "", 3), _message("no", "", 4)]

    parts = prompt_parts(messages, "<1>yes</1><2>yes<3>no<4>", 9, 2)

    assert _shown(parts) == [
        ("template", "<1>yes</1><2>", True),
        ("user", "yes", False),
        ("template", "<3>", True),
        ("user", "no", False),
        ("template", "<4>", True),
    ]
    assert [each["message"] for each in parts] == [None, 3, None, 4, None]


def test_messages_that_the_rendering_does_not_have_are_shown_before_it() -> None:
    parts = prompt_parts([_message("yes", "")], "<YES>", 5, 2)

    assert _shown(parts) == [("user", "yes", False), ("template", "<YES>", True)]


def test_a_prompt_without_messages_is_a_prompt() -> None:
    (part,) = prompt_parts([], "Once upon", 3, 0)

    assert (part["role"], part["injected"], part["tokens"]) == ("prompt", False, 3)


@given(contents=st.lists(texts, max_size=3), around=st.lists(texts, min_size=4, max_size=4))
def test_the_texts_of_the_parts_are_the_added_text(contents: list[str], around: list[str]) -> None:
    messages, tokens = [], 0
    for index, content in enumerate(contents):
        message = _message(content, f"{around[index]}{content}{around[3]}", index, tokens)
        messages.append(message)
        tokens += message.tokens

    kept = prompt_parts(messages, "<end>", 1, tokens)
    rendered = prompt_parts(
        [_message(each.content, "", each.index) for each in messages],
        "".join(each.text for each in messages) + "<end>",
        9,
        2,
    )

    whole = "".join(each.text for each in messages) + "<end>"
    assert "".join(each["text"] for each in kept) == whole
    found = "".join(each["text"] for each in rendered)
    assert found == whole or found.endswith(whole)
