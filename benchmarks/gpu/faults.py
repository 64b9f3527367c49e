"""Section 4: injected faults in 16 bits, each found by `retrace`."""

from typing import Any

import tokentape as tt
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.models import family_model
from benchmarks.replay.fault_case import Case, record_case
from benchmarks.replay.faults import FAULTS, Fault, check_fault

_TOKENS = 16


def measure(bench: Bench) -> None:
    """Find the verdict and the first cause of each fault in the dtype of the part."""
    lm = family_model(bench, "llama", bench.torch_dtype)
    case = record_case(lm, tokens=8 if bench.tiny else _TOKENS)
    for fault in FAULTS[::4] if bench.tiny else FAULTS:
        bench.measure("fault", _checked, fault, case, fault=fault.name)


def _checked(fault: Fault, case: Case) -> dict[str, Any]:
    result = check_fault(fault, case, tt.retrace)
    turns = result.numbers.turns
    return {
        "right": result.is_right,
        "verdict": result.report.verdict.value,
        "cause": result.cause,
        "numbers": result.numbers.verdict.value,
        "rounded_away": result.rounded_away,
        "rows_that_differ": sum(turn.differing_rows or 0 for turn in turns),
        "tokens": sum(turn.tokens for turn in turns),
    }
