"""Prompts of an exact number of tokens, the same in each run."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

import tokentape as tt
from tokentape.generation.hf.control_tokens import encode
from tokentape.generation.history.conversation import Conversation

_SENTENCES = (
    "You study the weights of a small language model. "
    "You look at one layer at a time and say what you see. "
    "You give the mean, the largest value and the norm. "
    "You never guess, and you say when you do not know. "
)
_CLOSED = "<|im_end|>\n"
# Real English that is in every checkout and does not change.
_LICENCE = Path(__file__).parent.parent / "LICENSE"


def licence() -> str:
    """Return the text of the licence, about 1,600 words."""
    return _LICENCE.read_text(encoding="utf-8")


def question(turn: int, words: int) -> str:
    """Return the given number of words of the licence, different ones for each turn."""
    written = licence().split()
    start = (turn - 1) * words
    return " ".join(written[index % len(written)] for index in range(start, start + words))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, tokens: int) -> list[int]:
    """Return the ids of a plain text of the given number of tokens."""
    ids = list(encode(tokenizer, _SENTENCES))
    return (ids * (tokens // len(ids) + 1))[:tokens]


def system_prompt(tokenizer: PreTrainedTokenizerBase, tokens: int) -> str:
    """Return a system prompt that has `tokens` tokens when the chat template has rendered it.

    Raise PromptError if no cut of the text gives that number.
    """
    frame = len(_system_ids(tokenizer, _SENTENCES)) - len(encode(tokenizer, _SENTENCES))
    whole = encode(tokenizer, _SENTENCES * (tokens // 20 + 1))
    text = str(tokenizer.decode(list(whole[: tokens - frame]), skip_special_tokens=False))
    found = len(_system_ids(tokenizer, text))
    if found != tokens:
        raise tt.PromptError(f"the system prompt has {found} tokens, not {tokens}")
    return text


def system_prompt_ids(tokenizer: PreTrainedTokenizerBase, tokens: int) -> list[int]:
    """Return the ids of `system_prompt`, rendered by the chat template."""
    return list(_system_ids(tokenizer, system_prompt(tokenizer, tokens)))


def question_ids(tokenizer: PreTrainedTokenizerBase, turn: int, tokens: int) -> list[int]:
    """Return the ids that a turn adds to a prompt: a user message, and the header of the reply."""
    closed = _CLOSED if turn > 1 else ""
    asked = f"{closed}<|im_start|>user\nQuestion {turn}: {_SENTENCES * 4}"
    opening = encode(tokenizer, f"{_CLOSED}<|im_start|>assistant\n")
    ids = encode(tokenizer, asked)[: tokens - len(opening)]
    return [*ids, *opening]


def _system_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    conversation = Conversation(tokenizer)
    conversation.restart(text)
    return conversation.ids
