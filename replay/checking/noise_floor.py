"""Noise floors: the built-in ones, their files, and the near ties that they predict."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokentape.recorder.foreign_files import foreign_file
from tokentape.recorder.limits import load_json
from tokentape.recorder.paths import expand_path
from tokentape.recorder.regular_file import read_regular
from tokentape.replay.recorded.loaded_run import LoadedRun
from tokentape.replay.results.errors import ReplayError
from tokentape.replay.results.report import Floor

if TYPE_CHECKING:
    from tokentape.generation import LoadedModel
    from tokentape.store.source import Attachments

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

# Without a measured floor the numbers are still compared with this one, for the report alone.
DEFAULT_FLOOR = FLOORS["float32"]
# Without a floor `regenerate` compares tokens alone: no log-probability is a drift.
NO_DRIFT = replace(DEFAULT_FLOOR, logprob_floor=math.inf)

# The smallest fault that a replay must find, weights off by a ten-thousandth, moves
# log-probabilities by 2.4e-4 on average: a floor above that hides it.
_VERIFIABLE_NATS = 2.4e-4
# At least twice the 16-bit noise of the noisiest tiny model.
MARGIN_EPS_MAX = 4.0
_LOGPROB_FLOOR_MAX = 2.0
# An average over many tokens shows faults that the floor of a single token hides.
_MEAN_FACTOR = 4.0
_MEAN_TOKENS = 32

# A count of near ties less likely than this is not noise.
_IMPLAUSIBLE = 1e-6
_GAP_WINDOW = 0.1

_FORMAT = 1
_FILE_BYTES_MAX = 1024**2


def floor_of(lm: "LoadedModel", dtype: str, given: Floor | None = None) -> Floor | None:
    """Return the floor for a recording of that dtype: `given`, or else the built-in one.

    None if none is built in. That holds for every model that caches more than keys and values:
    recurrent states accumulate the noise of all earlier steps. It also holds for one that rounds
    its activations, as int8 by int8 does: noise can become a quantization step. Raise ReplayError
    if `given` is of another dtype, was edited, or is too large to show anything.
    """
    if given is not None:
        check_floor(given)
        if given.dtype != dtype:
            raise ReplayError(
                f"the floor {given.version} was measured in {given.dtype}, and the run was "
                f"recorded in {dtype}: measure one with `tokentape calibrate`"
            )
        return given
    # Reading a floor must not wait for torch.
    from tokentape.generation import hf
    from tokentape.generation.hf.packed_tensors import quantizes_activations

    if hf.recurrent(hf.new_cache(lm.model)) or quantizes_activations(lm.model):
        return None
    return FLOORS.get(dtype)


def stored_floor(store: "Attachments", run: LoadedRun, lm: "LoadedModel") -> Floor | None:
    """Return the newest floor stored with a run, or None if a floor is built in for the model.

    A recording is not judged by a floor that it brings along if there is another.
    """
    stored = store.floors(run.run_id)
    if not stored or floor_of(lm, run.started.dtype) is not None:
        return None
    return floor_from(stored[-1].floor, f"the floor stored with run {run.run_id}")


def version_of(floor: Floor) -> str:
    """Return the name of a measurement, with a hash of the floor's other fields."""
    described = json.dumps(asdict(floor) | {"version": ""}, sort_keys=True)
    return f"{floor.dtype}-calibrated-{hashlib.sha256(described.encode()).hexdigest()[:8]}"


def check_floor(floor: Floor) -> None:
    """Raise ReplayError if a floor does not match its version's hash, or is too large."""
    if floor not in FLOORS.values() and floor.version != version_of(floor):
        raise ReplayError(
            f"the floor {floor.version} was changed since it was measured, or never measured: "
            "measure one with `tokentape calibrate`"
        )
    if floor.margin_eps > MARGIN_EPS_MAX or floor.logprob_floor > _LOGPROB_FLOOR_MAX:
        raise ReplayError(
            f"the floor {floor.version} lets margins of {floor.margin_eps:g} logits and "
            f"differences of {floor.logprob_floor:g} nats pass: it hides every fault"
        )


def hides_faults(floor: Floor) -> bool:
    """Return whether faults that a replay must find are within this noise, as in 16 bits."""
    return floor.logprob_floor > _VERIFIABLE_NATS


def is_off_on_average(differences: Sequence[float], floor: Floor) -> bool:
    """Return whether log-probabilities differ more on average than 16-bit noise explains.

    False for float32, whose mean noise varies too much between prompts for this test.
    """
    if len(differences) < _MEAN_TOKENS or floor.dtype == "float32":
        return False
    return sum(differences) / len(differences) > _MEAN_FACTOR * floor.logprob_noise


def predict_flips(gaps: Sequence[float], floor: Floor) -> float:
    """Return how many picks noise alone is expected to flip.

    `gaps` are the raw logits between the two best tokens of each row. A flip needs a gap below the
    noise: half the density of gaps at zero, times the mean noise. The density is measured over gaps
    below 0.1 logits, or below four times the noise if that is more.
    """
    window = max(_GAP_WINDOW, 4.0 * floor.margin_noise)
    near_zero = sum(gap < window for gap in gaps)
    return 0.5 * (near_zero / window) * floor.margin_noise


def plausible(flips: int, predicted: float) -> bool:
    """Return whether `flips` is a likely count of a Poisson distribution with that mean."""
    if flips <= 1:
        return True
    import torch

    # P(count >= flips) is the regularised lower incomplete gamma function (DLMF 8.4.10).
    count, mean = torch.tensor([flips, predicted], dtype=torch.float64)
    return float(torch.special.gammainc(count, mean)) > _IMPLAUSIBLE


def write_floor(floor: Floor, path: Path | str) -> None:
    """Write a floor to a JSON file, for CI to pin. Raise ReplayError if that fails.

    Example:
        >>> import tokentape as tt
        >>> from tokentape.replay.checking.noise_floor import DEFAULT_FLOOR
        >>> tt.write_floor(DEFAULT_FLOOR, tmp_path / "floor.json")
        >>> tt.read_floor(tmp_path / "floor.json").logprob_floor
        0.0001
    """
    path = expand_path(path)
    text = json.dumps({"tokentape_floor": _FORMAT, **asdict(floor)}, indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReplayError(f"cannot write the floor to {path}: {error.strerror}") from None


def read_floor(path: Path | str) -> Floor:
    """Read a floor from a file that `write_floor` wrote.

    Raise ReplayError if the file is missing, is not a floor, or was edited.

    Example:
        >>> import tokentape as tt
        >>> from tokentape.replay.checking.noise_floor import DEFAULT_FLOOR
        >>> tt.write_floor(DEFAULT_FLOOR, tmp_path / "floor.json")
        >>> tt.read_floor(tmp_path / "floor.json").version
        'float32-2026-11'
    """
    path = expand_path(path)
    try:
        values = load_json(read_regular(path, _FILE_BYTES_MAX).decode("utf-8-sig"))
    except OSError as error:
        raise ReplayError(f"cannot read the floor {path}: {error.strerror}") from None
    except (RecursionError, ValueError) as error:
        why = f"it {fault}" if (fault := foreign_file(path)) else error
        raise ReplayError(f"{path} is not a floor of `tokentape calibrate`: {why}") from None
    if not isinstance(values, dict) or "tokentape_floor" not in values:
        raise ReplayError(f"{path} is not a floor of `tokentape calibrate`")
    if values.pop("tokentape_floor") != _FORMAT:
        raise ReplayError(f"{path} is a floor in a newer format: upgrade tokentape to read it")
    return floor_from(values, str(path))


def floor_from(values: Mapping[str, Any], where: str) -> Floor:
    """Return the floor with these fields. Raise ReplayError if they are not those of a floor."""
    kinds = {field.name: field.type for field in fields(Floor)}
    valid = values.keys() == kinds.keys() and all(
        isinstance(values[name], str) if kind is str else _is_amount(values[name])
        for name, kind in kinds.items()
    )
    if not valid:
        raise ReplayError(
            f"{where} is a damaged floor: it must have {', '.join(kinds)}, numbers not negative"
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
