"""What `chat` and `tail` show while a reply is generated is its text, each character once."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

import tokentape as tt
from benchmarks.tiny_models import tiny_model
from tests.generation.text_tokenizers import byte_fallback, unigram, word_pieces
from tokentape.commands import tail
from tokentape.generation.investigation.chat_session import ChatSession, EventTap
from tokentape.recorder.events import TokenSampled, TurnFinished
from tokentape.store import DatabaseStore
from tokentape.store.run_follower import NewToken

# The messages end where the template ends: the turn adds no ids after them.
TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}"
    "{% endfor %}"
)
REPLIES = ("ነው abc", " ሰላም.", "ยินดี ab", "漢 👍🏽.")
TOKENIZERS = {
    "byte fallback": byte_fallback,
    "unigram with bytes": lambda **settings: unigram(falls_back=True, **settings),
    "word pieces": lambda **settings: word_pieces(clean_up_tokenization_spaces=True, **settings),
}


class Terminal:
    """A terminal that types messages and remembers what it shows."""

    def __init__(self, *typed: str) -> None:
        self.typed, self.shown, self.notes = typed, "", ""

    def lines(self) -> Iterator[str]:
        yield from self.typed

    def show(self, text: str) -> None:
        self.shown += text

    def note(self, text: str) -> None:
        self.notes += text


class InTurn(LogitsProcessor):
    """Makes a model reply with the next of these ids at each step."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = iter(ids)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, next(self._ids)] = 0.0
        return forced  # type: ignore[return-value]


def chat(name: str, store: DatabaseStore) -> tuple[Terminal, tt.Recording, Any]:
    """Record a chat in which the model replies with `REPLIES`."""
    tokenizer = TOKENIZERS[name](chat_template=TEMPLATE)
    lm = tiny_model(
        "llama", tokenizer, num_hidden_layers=1, vocab_size=len(tokenizer), eos_token_id=1
    )
    end = tokenizer.eos_token_id
    lm.model.generation_config.eos_token_id = end
    replies = [tokenizer.encode(text, add_special_tokens=False) for text in REPLIES]
    forced = InTurn([token_id for ids in replies for token_id in (*ids, end)])
    terminal, tap = Terminal(*("ሰላም" for _ in REPLIES)), EventTap(store)
    with tt.Investigation(lm, store=tap, name="n", system_prompt="ab.") as run:
        settings = {"max_new_tokens": 60, "logits_processor": LogitsProcessorList([forced])}
        ChatSession(run, tt.ToolInterface([]), tap, terminal, settings).run()
    return terminal, store.recording(run.run_id), tokenizer


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_chat_shows_the_recorded_texts(name: str, store: DatabaseStore) -> None:
    terminal, recording, _ = chat(name, store)
    texts = [turn.reply_text for turn in tt.rebuild(recording).turns]

    assert len(texts) == len(REPLIES), terminal.notes
    assert terminal.shown == "".join(f"{text}\n" for text in texts)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_run_that_is_followed_is_printed_with_the_recorded_texts(
    name: str,
    store: DatabaseStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, recording, tokenizer = chat(name, store)
    monkeypatch.setattr(tail, "tokenizer_as_recorded", lambda run: tokenizer)
    printer = tail._Printer(recording)
    for envelope in recording.events():
        event = envelope.event
        if isinstance(event, TokenSampled):
            printer.print([NewToken(envelope.seq, event.turn, event.token_id)])
        elif isinstance(event, TurnFinished):
            before = capsys.readouterr().out
            printer.print([envelope])
            rest = capsys.readouterr().out.partition("\n  [")[0]

            assert (before + rest).rpartition("assistant: ")[2] == event.text
        else:
            printer.print([envelope])
