"""The process of one part: `python -m benchmarks.gpu.worker SECTION`, a line a finding."""

import argparse
import signal
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.gpu.bench import Bench, print_finding
from benchmarks.gpu.sections import section_named


def main() -> None:
    """Measure the part that the arguments name."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu.worker")
    parser.add_argument("section")
    parser.add_argument("--dtypes", nargs="*", default=[])
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    # Ends the process also within a kernel, and where the process that started it was killed.
    signal.setitimer(signal.ITIMER_REAL, chosen.seconds)
    warnings.simplefilter("ignore")
    log: Any = transformers.logging
    log.set_verbosity_error()
    bench = Bench(
        device=torch.device(chosen.device),
        tiny=chosen.tiny,
        dtype="",
        folder=chosen.folder,
        found=print_finding,
    )
    section_named(chosen.section).run(bench, chosen.dtypes)


if __name__ == "__main__":
    main()
