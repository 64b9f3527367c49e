"""Texts of runs with made chat templates, and a processor that forces their replies."""

import re
from typing import Any

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerFast

import tokentape as tt
from tests.generation.calling_models import call
from tests.generation.made_templates import EMPTY, MadeTemplate

SYSTEM = "You are the subject."
LOOK = tt.ToolCall(name="look_up", arguments={"name": "moon"})
CALLS: dict[str, Any] = {"tool_call_format": "python", "seed": 7}
CALL = call("python", name="sun")


FIRST, CALLING, THIRD = "First question.", "Please call.", "Third question."
OTHERS = (THIRD, "Fourth question.", "Another second question.")


class Says(LogitsProcessor):
    """A processor that forces the first reply, a call, and the reply after its result.

    It reads from the ids which reply is due, so the same processor serves a replay.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, made: MadeTemplate) -> None:
        self._tokenizer = tokenizer
        self._made = made

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        forced = scores.clone()
        for row, ids in enumerate(input_ids.tolist()):
            due = self._due(self._tokenizer.decode(ids))
            if due is not None:
                forced[row] = -torch.inf
                forced[row, due] = 0.0
        return forced

    def _due(self, text: str) -> int | None:
        said_from = max(each.end() for each in re.finditer(self._made.opening, text))
        prompt, said = text[:said_from], text[said_from:]
        newest = max((FIRST, CALLING, *OTHERS), key=prompt.rfind)
        if newest == CALLING:
            reply = "Done." if "about sun" in prompt[prompt.rfind(CALLING) :] else CALL
        elif newest == FIRST and self._made.first_reply:
            reply = self._made.first_reply.replace(EMPTY, "")
        else:
            return None
        ids: list[int] = self._tokenizer.encode(reply, add_special_tokens=False)
        return (*ids, self._tokenizer.eos_token_id)[len(said.encode())]
