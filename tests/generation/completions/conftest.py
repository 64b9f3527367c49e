"""Conversations of a tiny model."""

from collections.abc import Iterator

import pytest

import tokentape as tt
from tokentape.generation.completions.conversations import Conversations
from tokentape.store import DatabaseStore


@pytest.fixture
def conversations(lm: tt.LoadedModel, store: DatabaseStore) -> Iterator[Conversations]:
    with Conversations(lm, store) as opened:
        yield opened
