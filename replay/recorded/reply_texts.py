"""The texts that releases of tokentape and of transformers give to the ids of a reply."""

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from tokentape.generation.cache import common_prefix_length
from tokentape.generation.history.decoding import CONTEXT_TOKENS, Decoding, decode_reply
from tokentape.recorder.projections import Turn


def is_text_of(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    prompt_ids: Sequence[int],
    reply_ids: Sequence[int],
) -> bool:
    """Return whether a release decoded the ids of a reply to this text, its stop text included.

    Ids are the truth: a text that was decoded otherwise is no fault of the recording.
    """
    return any(text == each for each in _texts_of(tokenizer, prompt_ids, reply_ids))


def is_text_of_turn(tokenizer: PreTrainedTokenizerBase, text: str, turn: Turn) -> bool:
    """Return whether this is the text of a round's reply; see `is_text_of`.

    The text of a reply that a fork continues begins at the end of the prompt.
    """
    if not turn.continued_tokens:
        return is_text_of(tokenizer, text, turn.prompt_ids, turn.reply_ids)
    own = turn.own_prompt_tokens
    ids = (*turn.prompt_ids[own:], *turn.reply_ids)
    return any(
        each.endswith(text) and turn.prompt_text.endswith(each[: len(each) - len(text)])
        for each in _texts_of(tokenizer, turn.prompt_ids[:own], ids)
    )


def _texts_of(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], reply_ids: Sequence[int]
) -> Iterator[str]:
    yield Decoding(tokenizer).after(prompt_ids, reply_ids)
    yield "".join(decode_reply(tokenizer, prompt_ids, reply_ids, ended=True))
    # Releases of transformers differ in the tokenizers whose spaces they clean up.
    for cleans_up in (False, True):
        decoding = Decoding(tokenizer, cleans_up=cleans_up)
        yield decoding.after(prompt_ids, reply_ids)
        yield _after_four_ids(decoding, prompt_ids, reply_ids)


def _after_four_ids(decoding: Decoding, prompt_ids: Sequence[int], reply_ids: Sequence[int]) -> str:
    """Return the text as tokentape 0.1.0 decoded it, also across a run of byte-fallback tokens."""
    context_ids = prompt_ids[-CONTEXT_TOKENS:]
    context = decoding.cleaned(decoding.raw(context_ids))
    extended = decoding.cleaned(decoding.raw([*context_ids, *reply_ids]))
    return extended[common_prefix_length(context, extended) :]
