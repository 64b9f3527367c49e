"""The fate of the likeliest tokens: which remained after the processors, and what removed the rest.

Events record the settings and the sampled token's log-probability before and after the processors.
Their difference says how much of the distribution remained; the settings say what each filter
removes. Where neither settles it, the candidate is unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokentape.recorder.projections import Turn
from tokentape.replay.view.candidate_bounds import Bounds, Flags, Rows
from tokentape.replay.view.filter_effects import effects_of, first_remover
from tokentape.replay.view.filter_settings import REMOVERS, FilterSettings

CODES = {name: code for code, name in enumerate(REMOVERS)}
_FLOAT32 = ("float32", "float64")


@dataclass(frozen=True, slots=True)
class SampledStretch:
    """Tokens that were sampled in one round with the same settings."""

    turn: Turn
    first_row: int


def judge_candidates(
    numbers: dict[str, Any], stretches: Sequence[SampledStretch], *, dtype: str
) -> None:
    """Fill the columns `top_removed` and `top_processed` of rows that belong to stretches.

    `dtype` is that of the model: logits of 16 bits tie.
    """
    groups: dict[FilterSettings, list[SampledStretch]] = {}
    for each in stretches:
        groups.setdefault(FilterSettings.of(each.turn.started), []).append(each)
    numbers["top_removed"][:] = CODES["unknown"]
    for settings, group in groups.items():
        rows = np.concatenate(
            [np.arange(each.first_row, each.first_row + len(each.turn.tokens)) for each in group]
        )
        if len(rows):
            lowered, excluded = _lowered(numbers, group, settings)
            own = {name: column[rows] for name, column in numbers.items()}
            with np.errstate(over="ignore", invalid="ignore"):
                removed, processed = _judged(
                    own, settings, lowered, excluded, has_ties=dtype not in _FLOAT32
                )
            numbers["top_removed"][rows], numbers["top_processed"][rows] = removed, processed
    _settle_sampled(numbers)


def _judged(
    own: dict[str, Any],
    settings: FilterSettings,
    lowered: tuple[Flags, Flags],
    excluded: Any,
    *,
    has_ties: bool,
) -> tuple[Any, Any]:
    shape = own["top_ids"].shape
    if not settings.is_known:
        return np.full(shape, CODES["unknown"], np.uint8), np.full(shape, np.nan)
    rows = Rows.of(
        own,
        temperature=settings.temperature,
        lowered=lowered[0] | (excluded > 0),
        sampled_lowered=lowered[1],
        has_ties=has_ties,
    )
    removed = _removed(Bounds.of(rows), settings) if settings.filters else np.zeros(shape, np.uint8)
    is_open = removed == CODES["unknown"] if settings.filters else np.ones(shape, bool)
    removed[lowered[0] & is_open] = CODES["lowered"]
    removed = np.where(excluded > 0, excluded, removed).astype(np.uint8)
    removed[own["top_ids"] < 0] = CODES["unknown"]
    is_known = (removed == 0) & ~rows.lowered & ~rows.sampled_lowered[:, None]
    processed = rows.logprobs - (rows.sampled - rows.processed)[:, None]
    return removed, np.where(is_known, np.minimum(processed, 0.0), np.nan)


def _removed(bounds: Bounds, settings: FilterSettings) -> Any:
    """Return the code of what the filters did to each candidate."""
    rows, effects = bounds.rows, effects_of(bounds, settings)
    is_kept = np.logical_and.reduce([effect.keeps for _, effect in effects])
    is_removed = np.logical_or.reduce([effect.removes for _, effect in effects])
    if not any(name == "typical_p" for name, _ in effects):
        # The tokens that remain are the first ones by score.
        is_above = rows.logprobs - rows.errors > rows.sampled[:, None]
        # A penalty keeps the order of the scores that it lowers.
        is_kept |= is_above & (~rows.lowered | rows.sampled_lowered[:, None])
        is_kept |= ~rows.lowered & (bounds.remaining_low > bounds.before_high)
        is_removed |= bounds.remaining_high < bounds.before_low + rows.low
    codes = first_remover(effects, CODES)
    found = np.full(is_kept.shape, CODES["unknown"], np.uint8)
    found[is_kept & ~is_removed] = 0
    is_removed &= ~is_kept & ~rows.is_sampled
    found[is_removed] = codes[is_removed]
    return found


def _settle_sampled(numbers: dict[str, Any]) -> None:
    """Set the sampled tokens among the candidates: they remained, unless they were chosen."""
    is_sampled = numbers["top_ids"] == numbers["token_id"][:, None]
    is_sampled &= numbers["top_ids"] >= 0
    is_forced = numbers["forced"].astype(bool)[:, None]
    numbers["top_removed"][is_sampled] = 0
    processed = np.broadcast_to(numbers["logprob_processed"][:, None], is_sampled.shape)
    numbers["top_processed"][is_sampled] = processed[is_sampled]
    # The processors did not apply to a token that the experimenter chose.
    unknown = np.broadcast_to(is_forced, is_sampled.shape)
    numbers["top_removed"][unknown] = CODES["unknown"]
    numbers["top_processed"][unknown] = np.nan


def _lowered(
    numbers: dict[str, Any], group: Sequence[SampledStretch], settings: FilterSettings
) -> tuple[tuple[Flags, Flags], Any]:
    """Return which candidates and sampled tokens a penalty lowered, and what excluded candidates.

    The arrays have a row for each token of the group.
    """
    lowered, sampled, excluded = [], [], []
    for each in group:
        rows = slice(each.first_row, each.first_row + len(each.turn.tokens))
        top_ids, token_ids = numbers["top_ids"][rows], numbers["token_id"][rows]
        is_seen = np.zeros(top_ids.shape, bool)
        is_seen_sampled = np.zeros(len(token_ids), bool)
        if settings.has_penalty:
            is_seen, is_seen_sampled = _seen(each.turn, top_ids, token_ids)
        lowered.append(is_seen)
        sampled.append(is_seen_sampled)
        excluded.append(_excluded(each.turn, top_ids, settings))
    return (np.concatenate(lowered), np.concatenate(sampled)), np.concatenate(excluded)


def _seen(turn: Turn, top_ids: Any, token_ids: Any) -> tuple[Flags, Flags]:
    """Return which ids are in the sequence before the token of their row."""
    prompt = set(turn.prompt_ids)
    first_steps: dict[int, int] = {}
    for step, token_id in enumerate(token_ids.tolist()):
        first_steps.setdefault(token_id, step)
    never = len(token_ids)
    known, places = np.unique(np.column_stack((token_ids, top_ids)), return_inverse=True)
    begins = [-1 if each in prompt else first_steps.get(each, never) for each in known.tolist()]
    found = np.array(begins)[places].reshape(len(token_ids), -1)
    is_seen: Flags = found < np.arange(len(token_ids))[:, None]
    return is_seen[:, 1:], is_seen[:, 0]


def _excluded(turn: Turn, top_ids: Any, settings: FilterSettings) -> Any:
    """Return the code of the setting that excluded each candidate; zero for none."""
    found = np.zeros(top_ids.shape, np.uint8)
    if not settings.exclusions:
        return found
    prompt = len(turn.prompt_ids)
    for row in range(len(top_ids)):
        length = prompt + row
        excluded = settings.excluded(length - turn.own_prompt_tokens, length)
        for token_id, name in excluded.items():
            found[row, top_ids[row] == token_id] = CODES[name]
    return found
