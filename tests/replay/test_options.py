"""The options that `verify` and `regenerate` share."""

from collections.abc import Callable
from dataclasses import fields

import pytest

import tokentape as tt
from tokentape.replay.options import CheckKeywords, CheckOptions
from tokentape.store import DatabaseStore


def test_the_keywords_are_the_options() -> None:
    assert list(CheckKeywords.__annotations__) == [field.name for field in fields(CheckOptions)]


@pytest.mark.parametrize("replay", [tt.verify, tt.regenerate])
def test_an_unknown_option_is_an_error_that_names_the_known_ones(
    replay: Callable[..., tt.Report],
    lm: tt.LoadedModel,
    store: DatabaseStore,
    record: Callable[..., tt.Recording],
) -> None:
    recording = record(lm, store, tokens=1)

    with pytest.raises(TypeError, match=r"no option 'differing': .*on_fingerprint_difference"):
        replay(recording, lm, differing=print)
