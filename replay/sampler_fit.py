"""Which setting of the sampler, had it been another, explains what was recorded.

The processed log-probability shows the settings at every token, so that a value can be searched
for which all of them agree with.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from generation import LoadedModel, ModelError, hf
from replay.judging import JudgedTurn
from replay.verdict import Floor

_SEARCHED_ROWS = 16
_FILTERED_NATS = 10.0
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0

Cost = Callable[[float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingFit:
    """With `explains` in place of `recorded`, every token that was tried agrees."""

    setting: str
    recorded: float | None
    explains: float


def fit_setting(judged: JudgedTurn, lm: LoadedModel, floor: Floor) -> SettingFit | None:
    """The one setting that explains a turn, and its value; None where no single one does."""
    sampling = judged.turn.started.sampling
    if judged.logits is None:
        return None
    sampled = bool(sampling.get("do_sample"))
    for setting, search in _SEARCHES.items():
        if setting != "repetition_penalty" and not sampled:
            continue
        few = _Trial(judged, lm, setting, _SEARCHED_ROWS)
        found = search(few.cost, sampling)
        if found is None:
            continue
        every = _Trial(judged, lm, setting, len(judged.logits))
        recorded = sampling.get(setting)
        for value in found:
            temperature = value if setting == "temperature" else sampling.get("temperature")
            tolerance = floor.logprob_floor / min(1.0, float(temperature or 1.0))
            if value != recorded and every.largest_difference(value) <= tolerance:
                return SettingFit(setting=setting, recorded=recorded, explains=value)
    return None


class _Trial:
    """Processed log-probabilities of the first rows of a turn with one setting changed."""

    def __init__(self, judged: JudgedTurn, lm: LoadedModel, setting: str, rows: int) -> None:
        assert judged.logits is not None
        self._turn = judged.turn
        self._lm = lm
        self._setting = setting
        self._logits = judged.logits[:rows]
        tokens = judged.turn.tokens[: len(self._logits)]
        device = self._logits.device
        ids = [[*judged.turn.prompt_ids, *judged.turn.reply_ids]]
        self._ids = torch.tensor(ids, device=device)
        self._token_ids = torch.tensor([[each.token_id] for each in tokens], device=device)
        self._recorded = torch.tensor([each.logprob_processed for each in tokens], device=device)

    def cost(self, value: float) -> float:
        """The mean difference, in nats; infinite for a value that transformers refuses."""
        differences = self._differences(value)
        return math.inf if differences is None else differences.mean().item()

    def largest_difference(self, value: float) -> float:
        differences = self._differences(value)
        return math.inf if differences is None else differences.max().item()

    def _differences(self, value: float) -> torch.Tensor | None:
        prompt_tokens = len(self._turn.prompt_ids)
        sampling = {**self._turn.started.sampling, self._setting: value}
        try:
            config = hf.recorded_config(sampling)
            prompt = self._ids[:, :prompt_tokens]
            prepared = hf.prepare(self._lm.model, self._lm.tokenizer, config, prompt)
        except ModelError:
            return None
        scores = hf.process_rows(prepared.processors, self._ids, prompt_tokens, self._logits)
        processed = scores.gather(1, self._token_ids)[:, 0] - scores.logsumexp(dim=-1)
        return (processed - self._recorded).abs().clamp(max=_FILTERED_NATS)


def _temperature(cost: Cost, sampling: Mapping[str, Any]) -> list[float]:
    recorded = float(sampling.get("temperature") or 1.0)
    grid = [recorded * 2.0 ** (step / 6) for step in range(-9, 10)]
    return _rounded(_refined(cost, grid))


def _repetition_penalty(cost: Cost, sampling: Mapping[str, Any]) -> list[float]:
    grid = [0.7 + 0.05 * step for step in range(30)]
    return _rounded(_refined(cost, grid))


def _top_k(cost: Cost, sampling: Mapping[str, Any]) -> list[float]:
    recorded = int(sampling.get("top_k") or 0)
    usual = {0, 1, 2, 3, 5, 10, 15, 20, 25, 30, 40, 50, 60, 64, 80, 100, 150, 200, 500, 1000}
    near = {recorded + offset for offset in range(-12, 13)}
    best = min(sorted(each for each in usual | near if each >= 0), key=cost)
    around = [best + offset for offset in range(-6, 7) if best + offset >= 0]
    return [min(around, key=cost)]


def _share(cost: Cost, sampling: Mapping[str, Any]) -> list[float]:
    """A setting between zero and one, of which steps of a thousandth are told apart."""
    best = min(_steps(0.05, 1.0, 0.05), key=cost)
    best = min(_steps(best - 0.05, best + 0.05, 0.01), key=cost)
    near = _steps(best - 0.01, best + 0.01, 0.002)
    return [best, min(near, key=cost)]


def _steps(low: float, high: float, step: float) -> list[float]:
    count = round((high - low) / step)
    values = (round(low + index * step, 4) for index in range(count + 1))
    return [value for value in values if 0.0 < value <= 1.0]


def _refined(cost: Cost, grid: list[float]) -> float:
    """The best of a grid, moved to the least cost between its neighbours by golden sections."""
    best = min(range(len(grid)), key=lambda index: cost(grid[index]))
    low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    while high - low > 1e-5 * high:
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if cost(left) < cost(right) else (left, high)
    return (low + high) / 2.0


def _rounded(value: float) -> list[float]:
    """The value as somebody may have written it, the shortest first."""
    return [round(value, digits) for digits in (1, 2, 3, 4)] + [value]


_SEARCHES: dict[str, Callable[[Cost, Mapping[str, Any]], Iterable[float] | None]] = {
    "temperature": _temperature,
    "top_k": _top_k,
    "top_p": _share,
    "repetition_penalty": _repetition_penalty,
    "min_p": _share,
}
