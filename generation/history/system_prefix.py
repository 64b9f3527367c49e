"""The ids with which every conversation with a system prompt begins."""

from tokentape.generation.hf.control_tokens import encode, unescape
from tokentape.generation.history.chat_template import QUESTIONS, ChatTemplate
from tokentape.generation.history.messages import Message
from tokentape.generation.history.suffix import EncodedText
from tokentape.generation.history.written_texts import check_written

_SHORTENED_CHARS = 40
"""How much of the text may be left to the first message, for tokens that span its end."""


def encode_system_prefix(template: ChatTemplate, message: Message) -> tuple[EncodedText, bool]:
    """Return the beginning of all conversations with a system prompt.

    The second value tells whether it is a message of its own; see `ChatTemplate.system_prefix`.
    Raise PromptError if the template rejects the system prompt or leaves it out.
    """
    text, is_complete = template.system_prefix(message)
    followed = [
        template.try_render([message, {"role": "user", "content": each}]) for each in QUESTIONS
    ]
    content = [("the system prompt", message["content"])]
    check_written(content, unescape(followed[0] or text))
    ids_of_followed = [encode(template.tokenizer, each) for each in followed if each is not None]
    for end in range(len(text), max(len(text) - _SHORTENED_CHARS, 0), -1):
        ids = encode(template.tokenizer, text[:end])
        if all(each[: len(ids)] == ids for each in ids_of_followed):
            return EncodedText(text[:end], ids), is_complete and end == len(text)
    return EncodedText(), False
