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


@pytest.mark.parametrize(
    "replay",
    [tt.verify, tt.retrace, tt.regenerate, tt.calibrate, tt.rebuild, tt.diff, tt.view],
    ids=lambda each: each.__name__,
)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("01a21dbd", r"give a recording, store\.recording\('01a21dbd'\), not the id of a run"),
        (None, r"give a recording, store\.recording\(run_id\), not a NoneType"),
    ],
)
def test_the_id_of_a_run_is_an_error_that_says_how_to_get_the_recording(
    replay: Callable[..., object], given: object, message: str, lm: tt.LoadedModel
) -> None:
    further = {"diff": (given,), "rebuild": (), "view": ()}.get(replay.__name__, (lm,))
    with pytest.raises(TypeError, match=message):
        replay(given, *further)
