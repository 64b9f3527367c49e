"""Prompts that are given as token ids."""

from collections.abc import Sequence

from tokentape.generation.errors import PromptError
from tokentape.recorder.plain_values import plain_value


def prompt_token_ids(prompt: object) -> tuple[int, ...]:
    """Return the ids of a sequence or a tensor of one row. Raise PromptError for anything else."""
    ids = plain_value(prompt)
    if isinstance(ids, Sequence) and len(ids) == 1 and isinstance(ids[0], list):
        ids = ids[0]
    if not isinstance(ids, Sequence) or isinstance(ids, bytes):
        raise PromptError(
            f"a prompt must be a string or a sequence of token ids, not a {type(prompt).__name__}"
        )
    for each in ids:
        if isinstance(each, bool) or not isinstance(each, int) or each < 0:
            raise PromptError(f"a prompt must contain token ids only, not {each!r}")
    return tuple(ids)
