"""The settings of a round that filter tokens, as far as events tell their effect."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokentape.recorder.events import TurnStarted
from tokentape.recorder.generate_settings import GENERATE_SETTINGS
from tokentape.replay.view.shown_settings import NEUTRAL, WARPERS, acting

FILTERS = tuple(name for name in WARPERS if name != "temperature")
"""The filters in the order in which `generate` applies them."""

EXCLUSIONS = ("min_length", "min_new_tokens", "suppress_tokens", "begin_suppress_tokens")
"""Settings that remove named tokens before any filter, in the order of `generate`."""

_OF_IDS = ("suppress_tokens", "begin_suppress_tokens")
_LARGEST = 1e15

REMOVERS = ("", *FILTERS, *EXCLUSIONS, "other", "lowered", "unknown")
"""What became of a candidate: it remained; a setting removed it; one of several settings did, and
which is not known; a repetition penalty lowered its score, and what followed is not known; or
nothing is known."""

_HARMLESS = (GENERATE_SETTINGS | {"transformers_version"}) - set(WARPERS) - set(NEUTRAL)


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """The settings that decide which candidates remain."""

    temperature: float
    filters: tuple[tuple[str, float], ...]
    """The active filters with their values, in order."""
    exclusions: tuple[tuple[str, Any], ...]
    """The active settings of `EXCLUSIONS` with their values."""
    eos_ids: frozenset[int]
    has_penalty: bool
    """Whether the scores of earlier ids are lowered: by a repetition penalty above 1."""
    is_known: bool
    """Whether no other setting, and nothing of the user's own, changes scores."""

    @classmethod
    def of(cls, started: TurnStarted) -> "FilterSettings":
        """Return the settings of a round."""
        sampling = started.sampling
        warpers = acting(sampling, WARPERS) if sampling.get("do_sample") else {}
        changes = acting(sampling, NEUTRAL)
        penalty = changes.pop("repetition_penalty", 1.0)
        exclusions = {name: changes.pop(name) for name in EXCLUSIONS if name in changes}
        temperature = warpers.pop("temperature", 1.0)
        return cls(
            temperature=temperature if _is_number(temperature) and temperature > 0 else 1.0,
            filters=tuple((name, each) for name, each in warpers.items() if _is_number(each)),
            exclusions=tuple(
                (name, _ids(each) if name in _OF_IDS else each)
                for name, each in exclusions.items()
                if _is_valid(name, each)
            ),
            eos_ids=_ids(sampling.get("eos_token_id")),
            has_penalty=penalty != 1.0,
            is_known=not changes
            and not started.unreplayable_arguments
            and all(_is_number(each) and each > 0 for each in (temperature, *warpers.values()))
            and _is_number(penalty)
            and penalty >= 1
            and all(_is_valid(name, each) for name, each in exclusions.items())
            and _has_only_known_names(sampling),
        )

    def excluded(self, new_tokens: int, length: int) -> dict[int, str]:
        """Return the ids that are removed before the filters, each with the setting that does it.

        `new_tokens` were generated before in the round, and `length` is the length of the sequence.
        """
        found: dict[int, str] = {}
        for name, value in self.exclusions:
            if name == "suppress_tokens":
                ids = value
            elif name == "begin_suppress_tokens":
                ids = value if new_tokens == 0 else frozenset()
            else:
                count = length if name == "min_length" else new_tokens
                ids = self.eos_ids if count < value else frozenset()
            found = dict.fromkeys(ids, name) | found
        return found


def _has_only_known_names(sampling: Mapping[str, Any]) -> bool:
    """Return whether no setting that has a value is of a newer release of transformers."""
    known = {*_HARMLESS, *WARPERS, *NEUTRAL}
    return all(value is None or name in known for name, value in sampling.items())


def _is_number(value: Any) -> bool:
    """Return whether a setting is a number that a double holds; a recording may have anything."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= _LARGEST


def _is_valid(name: str, value: Any) -> bool:
    """Return whether a setting of `EXCLUSIONS` has a value of its type."""
    if name not in _OF_IDS:
        return _is_number(value)
    return isinstance(value, list | tuple) and all(type(each) is int for each in value)


def _ids(value: Any) -> frozenset[int]:
    listed = value if isinstance(value, list | tuple) else (value,)
    return frozenset(each for each in listed if type(each) is int)
