"""The noise floor, and how many near ties it lets one expect."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from tokentape.generation import LoadedModel, hf
from tokentape.replay.errors import ReplayError
from tokentape.replay.verdict import Floor

# Measured on SmolLM2-135M with torch 2.13 on x86-64 over full passes, chunks of 64 and 17, eager
# attention and one or two threads (8,700 tokens, prompts of up to 4,700): margins move by 6e-6 on
# average and 4e-5 at most, log-probabilities by 3.4e-5 at most.
FLOORS = {
    "float32": Floor(
        version="float32-2026-11",
        dtype="float32",
        margin_eps=1e-3,
        logprob_floor=1e-4,
        margin_noise=6e-6,
        logprob_noise=3e-6,
        tokens=8700,
        measured_on="SmolLM2-135M, torch 2.13, x86-64",
    )
}

# Where nothing was measured the numbers are still told, against the only floor that is known.
DEFAULT_FLOOR = FLOORS["float32"]
# Where only tokens can be compared: any log-probability is as good as another.
NO_DRIFT = replace(DEFAULT_FLOOR, logprob_floor=math.inf)

# The smallest fault that a replay is to find, weights off by a ten-thousandth, moves
# log-probabilities by 2.4e-4 on average: a floor above that hides it.
_VERIFIABLE_NATS = 2.4e-4
# Twice and more what 16 bits make of the noisiest tiny model.
_MARGIN_EPS_MAX = 4.0
_LOGPROB_FLOOR_MAX = 2.0
# An average over many tokens sees what the floor of a single one hides.
_MEAN_FACTOR = 4.0
_MEAN_TOKENS = 32

# A count of near ties less likely than this is no accident.
_IMPLAUSIBLE = 1e-6
_GAP_WINDOW = 0.1

_FORMAT = 1


def floor_of(lm: LoadedModel, dtype: str, given: Floor | None = None) -> Floor | None:
    """The floor for a recording of that dtype: the one that is `given`, else the built-in one.

    None where nothing was measured. That is so for every model that keeps more than keys and
    values: recurrent states carry the noise of all steps before. Raises ReplayError for a floor of
    another dtype.
    """
    if given is not None:
        check_floor(given)
        if given.dtype != dtype:
            raise ReplayError(
                f"the floor {given.version} was measured in {given.dtype}, and the run was "
                f"recorded in {dtype}: measure one with `tokentape calibrate`"
            )
        return given
    return None if hf.recurrent(hf.new_cache(lm.model)) else FLOORS.get(dtype)


def version_of(floor: Floor) -> str:
    """The name of a measurement: it holds a hash of all that the floor says."""
    described = json.dumps(asdict(floor) | {"version": ""}, sort_keys=True)
    return f"{floor.dtype}-calibrated-{hashlib.sha256(described.encode()).hexdigest()[:8]}"


def check_floor(floor: Floor) -> None:
    """Raise ReplayError for a floor that is not what its version names, or hides everything."""
    if floor not in FLOORS.values() and floor.version != version_of(floor):
        raise ReplayError(
            f"the floor {floor.version} was changed since it was measured, or never was: measure "
            "one with `tokentape calibrate`"
        )
    if floor.margin_eps > _MARGIN_EPS_MAX or floor.logprob_floor > _LOGPROB_FLOOR_MAX:
        raise ReplayError(
            f"the floor {floor.version} lets margins of {floor.margin_eps:g} logits and "
            f"differences of {floor.logprob_floor:g} nats pass: behind it nothing can be told"
        )


def hides_faults(floor: Floor) -> bool:
    """Whether faults that a replay is to find are within this noise, as in 16 bits they are."""
    return floor.logprob_floor > _VERIFIABLE_NATS


def is_off_on_average(differences: Sequence[float], floor: Floor) -> bool:
    """Whether log-probabilities differ more on average than the noise of 16 bits lets them.

    That of float32 differs from prompt to prompt by more than a factor can tell from a fault.
    """
    if len(differences) < _MEAN_TOKENS or floor.dtype == "float32":
        return False
    return sum(differences) / len(differences) > _MEAN_FACTOR * floor.logprob_noise


def predict_flips(gaps: Sequence[float], floor: Floor) -> float:
    """Expected number of honest flips among tokens with these gaps between their two best.

    A flip needs a gap below the noise: half the density of gaps at zero, times the mean noise. The
    density is that of the gaps below a tenth of a logit, or below four times the noise where that
    is more.
    """
    window = max(_GAP_WINDOW, 4.0 * floor.margin_noise)
    near_zero = sum(gap < window for gap in gaps)
    return 0.5 * (near_zero / window) * floor.margin_noise


def plausible(flips: int, predicted: float) -> bool:
    """Whether a Poisson count of that mean reaches `flips` now and then."""
    if flips <= 1:
        return True
    # The chance of at least so many is the regularised incomplete gamma function (DLMF 8.4.10).
    count, mean = torch.tensor([flips, predicted], dtype=torch.float64)
    return float(torch.special.gammainc(count, mean)) > _IMPLAUSIBLE


def write_floor(floor: Floor, path: Path) -> None:
    """Keep a floor in a file, for a CI to pin. Raises ReplayError where it cannot be written."""
    text = json.dumps({"tokentape_floor": _FORMAT, **asdict(floor)}, indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReplayError(f"cannot write the floor to {path}: {error.strerror}") from None


def read_floor(path: Path) -> Floor:
    """The floor in a file. Raises ReplayError for one that is not there, or is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReplayError(f"cannot read the floor {path}: {error.strerror}") from None
    except (RecursionError, ValueError) as error:
        raise ReplayError(f"{path} is no floor of `tokentape calibrate`: {error}") from None
    if not isinstance(values, dict) or "tokentape_floor" not in values:
        raise ReplayError(f"{path} is no floor of `tokentape calibrate`")
    if values.pop("tokentape_floor") != _FORMAT:
        raise ReplayError(f"{path} is a floor of a newer format: upgrade tokentape to read it")
    return floor_from(values, str(path))


def floor_from(values: Mapping[str, Any], where: str) -> Floor:
    """The floor that plain values describe. Raises ReplayError where they do not."""
    kinds = {field.name: field.type for field in fields(Floor)}
    right = values.keys() == kinds.keys() and all(
        isinstance(values[name], str) if kind is str else _is_amount(values[name])
        for name, kind in kinds.items()
    )
    if not right:
        raise ReplayError(
            f"{where} is a damaged floor: it has {', '.join(kinds)}, numbers not negative"
        )
    floor = Floor(**values)
    check_floor(floor)
    return floor


def _is_amount(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )
