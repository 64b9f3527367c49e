"""A model that says exact texts: what it computes is real, what it picks is decided beforehand."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

_QUESTION = [{"role": "user", "content": "?"}]


class ForcedReply(LogitsProcessor):
    """Leaves one token at each step: the next of the text that is due.

    Which text is due, and how much of it has been said, is read from the ids alone, so the same
    processor serves a replay: the first text follows the first header of an assistant's message
    that the chat template writes, the second the second, also where that is within a turn, behind
    a tool's result. A text that has been said whole is followed by the end of the reply. Behind
    more headers than there are texts the model says what it wants.
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
    """A processor that makes any model say the texts, one after each header; see `ForcedReply`."""
    return ForcedReply(tokenizer, texts)


def _assistant_header(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that the chat template ends a prompt with, for the model to go on from."""
    asked = tokenizer.apply_chat_template(_QUESTION, tokenize=False)
    prompted = tokenizer.apply_chat_template(_QUESTION, tokenize=False, add_generation_prompt=True)
    assert isinstance(asked, str)
    assert isinstance(prompted, str)
    header = prompted.removeprefix(asked)
    assert header, "the chat template has no header for a reply"
    return tokenizer.encode(header, add_special_tokens=False)
