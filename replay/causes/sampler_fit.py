"""Which setting of the sampler, had it been another, explains what was recorded.

The processed log-probability shows the settings at every token, so that a value can be searched
for which all of them agree with.
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
from tokentape.replay.verdict import Floor

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
    """With `explains` in place of `recorded`, every token that was tried agrees."""

    setting: str
    recorded: float | None
    explains: float


def fit_setting(judged: CheckedTurn, lm: LoadedModel, floor: Floor) -> SettingFit | None:
    """The one setting that explains a turn, and its value; None where no single one does.

    Some rows are needed, the first that is wrong among them: one row can be explained by anything,
    and rows that are right by what was recorded.
    """
    wrong = [i for i, each in enumerate(judged.tokens) if each.kind not in ("", "near_tie")]
    if judged.logits is None or not wrong or not wrong[0] < len(judged.logits) >= _ROWS_MIN:
        return None
    sampling = judged.turn.started.sampling
    start = min(max(0, wrong[0] - _SEARCHED_ROWS // 2), len(judged.logits) - _SEARCHED_ROWS)
    for setting, search in _SEARCHES.items():
        if setting != "repetition_penalty" and not sampling.get("do_sample"):
            continue
        if setting == "repetition_penalty" and sampling.get("guidance_scale") is not None:
            continue
        few = _Trial(judged, lm, setting, max(0, start), _SEARCHED_ROWS)
        every = _Trial(judged, lm, setting, 0, len(judged.logits))
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
        self, judged: CheckedTurn, lm: LoadedModel, setting: str, start: int, rows: int
    ) -> None:
        assert judged.logits is not None
        self._turn = judged.turn
        self._lm = lm
        self._setting = setting
        self._start = start
        self._logits = judged.logits[start : start + rows]
        tokens = judged.turn.tokens[start : start + len(self._logits)]
        device = self._logits.device
        ids = [[*judged.turn.prompt_ids, *judged.turn.reply_ids]]
        self._ids = torch.tensor(ids, device=device)
        self._token_ids = torch.tensor([[each.token_id] for each in tokens], device=device)
        self._recorded = torch.tensor([each.logprob_processed for each in tokens], device=device)

    def cost(self, value: float) -> float:
        """The mean difference, in nats; infinite for a value that transformers refuses."""
        scores = self._scores(value)
        return math.inf if scores is None else self._differences(scores).mean().item()

    def explains(self, value: float, tolerance: float) -> bool:
        """Whether each token is picked, with its log-probability; of a trial from row zero on."""
        scores = self._scores(value)
        if scores is None or self._differences(scores).max().item() > tolerance:
            return False
        picked = scores.argmax(dim=-1)
        if self._turn.started.sampling.get("do_sample"):
            stream = NoiseStream(
                self._turn.started.seed or 0, scores.shape[-1], self._logits.device
            )
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
            prompt = self._ids[:, :prompt_tokens]
            prepare_turn = hf.prepare(self._lm.model, self._lm.tokenizer, config, prompt)
            return hf.process_rows(
                prepare_turn.processors, self._ids, prompt_tokens + self._start, self._logits
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
    """Where another filter cuts more, many values are the same: a usual one is named first."""
    recorded = int(sampling.get("top_k") or 0)
    near = {recorded + offset for offset in range(-12, 13)}
    best = min(sorted(each for each in _USUAL_TOP_K | near if each >= 0), key=cost)
    around = [best + offset for offset in range(-6, 7) if best + offset >= 0]
    nearest = min(around, key=cost)
    usual = [each for each in around if each in _USUAL_TOP_K]
    return [*sorted(usual, key=lambda each: abs(each - nearest)), nearest]


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
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    left_cost, right_cost = cost(left), cost(right)
    # Each step keeps one of the two inner points: a cost is that of all rows, and dear.
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
    """The value as somebody may have written it, the shortest first."""
    return [round(value, digits) for digits in (1, 2, 3, 4)] + [value]


_SEARCHES: dict[str, Callable[[Cost, Mapping[str, Any]], Iterable[float] | None]] = {
    "temperature": _temperature,
    "top_k": _top_k,
    "top_p": _share,
    "repetition_penalty": _repetition_penalty,
    "min_p": _share,
}
