"""A logits processor that makes a model reply with given texts; its forwards stay real."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

_QUESTION = [{"role": "user", "content": "?"}]


class ForcedReply(LogitsProcessor):
    """A processor that leaves one token at each step: the next token of the current text.

    It reads the current text and its progress from the ids alone, so the same processor serves a
    replay. The first text follows the first header of an assistant message in the prompt, the
    second text the second header, and so on, also within a turn after a tool result. A complete
    text is followed by the end of the reply. After more headers than texts the model is free.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
        self._texts = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        self._end = [tokenizer.eos_token_id]
        self._header = _assistant_header(tokenizer)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        forced = scores.clone()
        for row, ids in enumerate(input_ids.tolist()):
            due = self._due(ids)
            if due is not None:
                forced[row] = -torch.inf
                forced[row, due] = 0.0
        return forced

    def _due(self, ids: list[int]) -> int | None:
        size = len(self._header)
        headers = [
            at + size for at in range(len(ids) - size + 1) if ids[at : at + size] == self._header
        ]
        if not 0 < len(headers) <= len(self._texts):
            return None
        said = len(ids) - headers[-1]
        due = (self._texts[len(headers) - 1] + self._end)[said : said + 1]
        return due[0] if due else self._end[0]


def forced_reply(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> ForcedReply:
    """Return a processor that makes any model reply with the texts in order; see `ForcedReply`."""
    return ForcedReply(tokenizer, texts)


def _assistant_header(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids at the end of a prompt, with which the chat template opens a reply."""
    question = tokenizer.apply_chat_template(_QUESTION, tokenize=False)
    prompted = tokenizer.apply_chat_template(_QUESTION, tokenize=False, add_generation_prompt=True)
    assert isinstance(question, str)
    assert isinstance(prompted, str)
    header = prompted.removeprefix(question)
    assert header, "the chat template has no header for a reply"
    return tokenizer.encode(header, add_special_tokens=False)
