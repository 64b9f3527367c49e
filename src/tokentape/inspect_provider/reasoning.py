"""What a model thinks between `<think>` and `</think>`, apart from its answer.

Scorers read the answer alone. The parts have the model's own characters, so that they make its
reply again, to the letter, when the conversation continues.
"""

from inspect_ai.model import Content, ContentReasoning, ContentText

_BEGIN, _END = "<think>", "</think>"


def to_content(text: str) -> str | list[Content]:
    """Return the content of a reply: its text, or its reasoning and the text after it.

    A reply may lack `<think>`, which some chat templates write at the end of the prompt.
    """
    before, end, after = text.partition(_END)
    if not end or _BEGIN in before.lstrip().removeprefix(_BEGIN):
        return text
    answer = after.lstrip()
    spelled = text[: len(text) - len(answer)]
    thought = before.lstrip().removeprefix(_BEGIN).strip()
    return [
        ContentReasoning(reasoning=thought, internal={"text": spelled}),
        ContentText(text=answer),
    ]


def reasoning_text(content: ContentReasoning) -> str:
    """Return the text of a reasoning as the model wrote it; `to_content` kept that."""
    kept = content.internal
    if isinstance(kept, dict) and isinstance(kept.get("text"), str):
        return str(kept["text"])
    return f"{content.text}\n\n"
