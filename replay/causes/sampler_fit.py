"""Search for the one sampler setting whose other value explains the recorded tokens.

The processed log-probability depends on the settings at every token, so that a value can be found
with which all of them agree.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from tokentape.generation import LoadedModel, ModelError, hf
from tokentape.replay.checking.check_turns import CheckedTurn
from tokentape.replay.checking.rng_stream import NoiseStream
from tokentape.replay.checking.turns import prepare_round
from tokentape.replay.results.report import Floor

_SEARCHED_ROWS = 16
_ROWS_MIN = 8
_FILTERED_NATS = 10.0
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0

_USUAL_TOP_K = frozenset(
    {0, 1, 2, 3, 5, 10, 15, 20, 25, 30, 40, 50, 60, 64, 80, 100, 150, 200, 500, 1000}
)

Cost = Callable[[float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingFit:
    """A setting with which every tried token agrees, at the value `explains`."""

    setting: str
    recorded: float | None
    explains: float


def fit_setting(checked: CheckedTurn, lm: LoadedModel, floor: Floor) -> SettingFit | None:
    """Return the one setting that explains a turn, and its value; None if no single one does.

    At least 8 rows with the first wrong one among them are needed: many settings explain a single
    row, and the recorded settings explain rows that agree.
    """
    wrong = checked.wrong_steps
    if checked.logits is None or not wrong or not wrong[0] < len(checked.logits) >= _ROWS_MIN:
        return None
    if checked.turn.forced_tokens:
        # No setting chose these tokens.
        return None
    sampling = checked.turn.started.sampling
    start = min(max(0, wrong[0] - _SEARCHED_ROWS // 2), len(checked.logits) - _SEARCHED_ROWS)
    for setting, search in _SEARCHES.items():
        if setting != "repetition_penalty" and not sampling.get("do_sample"):
            continue
        if setting == "repetition_penalty" and sampling.get("guidance_scale") is not None:
            continue
        few = _Trial(checked, lm, setting, max(0, start), _SEARCHED_ROWS)
        every = _Trial(checked, lm, setting, 0, len(checked.logits))
        recorded = sampling.get(setting)
        for value in search(cache(few.cost), sampling) or ():
            temperature = value if setting == "temperature" else sampling.get("temperature")
            tolerance = floor.logprob_floor / min(1.0, float(temperature or 1.0))
            if value != recorded and every.explains(value, tolerance):
                return SettingFit(setting=setting, recorded=recorded, explains=value)
    return None


class _Trial:
    """Processed log-probabilities of the first rows of a turn with one setting changed."""

    def __init__(
        self, checked: CheckedTurn, lm: LoadedModel, setting: str, start: int, rows: int
    ) -> None:
        assert checked.logits is not None
        self._turn = checked.turn
        self._lm = lm
        self._setting = setting
        self._start = start
        self._logits = checked.logits[start : start + rows]
        tokens = checked.turn.tokens[start : start + len(self._logits)]
        device = self._logits.device
        ids = [[*checked.turn.prompt_ids, *checked.turn.reply_ids]]
        self._ids = torch.tensor(ids, device=device)
        self._token_ids = torch.tensor([[each.token_id] for each in tokens], device=device)
        self._recorded = torch.tensor([each.logprob_processed for each in tokens], device=device)

    def cost(self, value: float) -> float:
        """Return the mean difference in nats; infinite for a value that transformers rejects."""
        scores = self._scores(value)
        return math.inf if scores is None else self._differences(scores).mean().item()

    def explains(self, value: float, tolerance: float) -> bool:
        """Return whether each token is picked with its log-probability; needs a start of zero."""
        scores = self._scores(value)
        if scores is None or self._differences(scores).max().item() > tolerance:
            return False
        picked = scores.argmax(dim=-1)
        if self._turn.started.sampling.get("do_sample"):
            stream = NoiseStream(
                self._turn.started.seed or 0, scores.shape[-1], self._logits.device
            )
            stream.skip(self._turn.continued_tokens * scores.shape[-1])
            noise = stream.exponentials(scores > -math.inf)
            picked = (torch.softmax(scores, dim=-1) / noise).argmax(dim=-1)
        return bool((picked == self._token_ids[:, 0]).all())

    def _differences(self, scores: torch.Tensor) -> torch.Tensor:
        processed = scores.gather(1, self._token_ids)[:, 0] - scores.logsumexp(dim=-1)
        return (processed - self._recorded).abs().clamp(max=_FILTERED_NATS)

    def _scores(self, value: float) -> torch.Tensor | None:
        prompt_tokens = len(self._turn.prompt_ids)
        sampling = {**self._turn.started.sampling, self._setting: value}
        try:
            config = hf.recorded_config(sampling)
            prepared = prepare_round(self._turn, self._lm, config, self._ids)
            return hf.process_rows(
                prepared.processors, self._ids, prompt_tokens + self._start, self._logits
            )
        except (ModelError, ValueError):
            return None


def _temperature(cost: Cost, sampling: Mapping[str, Any]) -> list[float]:
    recorded = float(sampling.get("temperature") or 1.0)
    grid = [recorded * 2.0 ** (step / 4) for step in range(-17, 18)]
    return _rounded(_refined(cost, grid))


def _repetition_penalty(cost: Cost, sampling: Mapping[str, Any]) -> list[float]:
    grid = [0.7 + 0.05 * step for step in range(30)]
    return _rounded(_refined(cost, grid))


def _top_k(cost: Cost, sampling: Mapping[str, Any]) -> list[float]:
    """Return values of top k; usual ones first, since another filter may make many values equal."""
    recorded = int(sampling.get("top_k") or 0)
    near = {recorded + offset for offset in range(-12, 13)}
    best = min(sorted(each for each in _USUAL_TOP_K | near if each >= 0), key=cost)
    around = [best + offset for offset in range(-6, 7) if best + offset >= 0]
    nearest = min(around, key=cost)
    usual = [each for each in around if each in _USUAL_TOP_K]
    return [*sorted(usual, key=lambda each: abs(each - nearest)), nearest]


def _share(cost: Cost, sampling: Mapping[str, Any]) -> list[float]:
    """Return values of a setting between zero and one, to within two thousandths."""
    best = min(_steps(0.05, 1.0, 0.05), key=cost)
    best = min(_steps(best - 0.05, best + 0.05, 0.01), key=cost)
    near = _steps(best - 0.01, best + 0.01, 0.002)
    return [best, min(near, key=cost)]


def _steps(low: float, high: float, step: float) -> list[float]:
    count = round((high - low) / step)
    values = (round(low + index * step, 4) for index in range(count + 1))
    return [value for value in values if 0.0 < value <= 1.0]


def _refined(cost: Cost, grid: list[float]) -> float:
    """Return the value of least cost near the best of a grid, by golden-section search."""
    best = min(range(len(grid)), key=lambda index: cost(grid[index]))
    low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    left_cost, right_cost = cost(left), cost(right)
    # Each step reuses one of the two inner points: computing a cost is expensive.
    while high - low > 1e-5 * high:
        if left_cost < right_cost:
            high, right, right_cost = right, left, left_cost
            left = high - _GOLDEN * (high - low)
            left_cost = cost(left)
        else:
            low, left, left_cost = left, right, right_cost
            right = low + _GOLDEN * (high - low)
            right_cost = cost(right)
    return (low + high) / 2.0


def _rounded(value: float) -> list[float]:
    """Return the value rounded to 1 to 4 digits, as people write settings, and unrounded."""
    return [round(value, digits) for digits in (1, 2, 3, 4)] + [value]


_SEARCHES: dict[str, Callable[[Cost, Mapping[str, Any]], Iterable[float] | None]] = {
    "temperature": _temperature,
    "top_k": _top_k,
    "top_p": _share,
    "repetition_penalty": _repetition_penalty,
    "min_p": _share,
}
