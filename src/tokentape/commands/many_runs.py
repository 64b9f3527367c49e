"""What the commands `run` and `resume` share when they are given several runs."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.completion import complete_run
from tokentape.commands.options import RUN_HELP
from tokentape.screen import Table, err, out

if TYPE_CHECKING:
    from tokentape.generation.plans import ExperimentPlan, PlanResult
    from tokentape.generation.plans.batch_size import RunsAtOnce

_SEEDS_MAX = 10_000
_RANGE = re.compile(r"(-?[0-9]{1,20})(?:-(-?[0-9]{1,20}))?")

RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN",
        help=f"{RUN_HELP}; or several of one store; by default the newest run.",
        autocompletion=complete_run,
    ),
]
SeedsOption = Annotated[
    str | None,
    typer.Option(
        metavar="N-N,N,…",
        help="Run each plan once with each of these seeds, such as 1-8,12.",
    ),
]
BatchOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="How many of several runs advance together, a token of each in a forward; auto: as "
        "many as fit into memory. Default: 1.",
    ),
]


def parsed_seeds(text: str | None) -> list[int] | None:
    """Return the seeds of `--seeds`. Raise BadParameter, also for a seed that is there twice."""
    if text is None:
        return None
    seeds = [seed for part in text.split(",") for seed in _seeds_of(part.strip(), text)]
    seed, count = Counter(seeds).most_common(1)[0]
    if count > 1:
        raise typer.BadParameter(f"--seeds {text!r}: seed {seed} is there {count} times")
    return seeds


def _seeds_of(part: str, text: str) -> Iterator[int]:
    found = _RANGE.fullmatch(part)
    if found is None:
        raise typer.BadParameter(f"--seeds {text!r}: give numbers and ranges, such as 1-8,12")
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise typer.BadParameter(f"--seeds {text!r}: {part} ends before it begins")
    if last - first >= _SEEDS_MAX:
        raise typer.BadParameter(f"--seeds {text!r}: {part} has more than {_SEEDS_MAX:,} seeds")
    yield from range(first, last + 1)


def parsed_batch(text: str | None) -> "RunsAtOnce":
    """Return the number of `--batch`, by default 1, or "auto". Raise BadParameter for another."""
    if text is None:
        return 1
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"[0-9]{1,9}", text) or not int(text):
        raise typer.BadParameter(f"--batch {text!r}: give a number of runs from 1, or auto")
    return int(text)


def chosen_places(
    batch: "RunsAtOnce", plans: "Iterable[ExperimentPlan]", lm: "tt.LoadedModel", *, runs: int
) -> int:
    """Return how many runs advance together; for `auto`, say on standard error why so many."""
    if batch != "auto":
        return batch
    from tokentape.generation.plans import fitting_batch

    found = fitting_batch(plans, lm, runs=runs)
    err.line(f"batch: {found.describe()}")
    return found.runs


def report_results(results: "Sequence[PlanResult]", store: str, as_json: bool) -> None:
    """Print a line for each run. Raise Exit with the code of the first error, if there is one."""
    if as_json:
        output.print_json([_row(each, store) for each in results])
    else:
        out.show(_table(results))
    failed = [each for each in results if each.error is not None]
    if failed:
        err.line(f"tokentape: {len(failed):,} of {len(results):,} runs failed")
        error = failed[0].error
        raise typer.Exit(error.exit_code if isinstance(error, tt.TokentapeError) else 2)


def outcome(result: "PlanResult") -> str:
    """Return how a run ended, with its error if it failed."""
    if result.error is None:
        return result.status
    return f"{result.status}: {type(result.error).__name__}: {result.error}"


def _table(results: "Sequence[PlanResult]") -> Table:
    table = Table("run")
    table.add_column("name", wrap=True)
    table.add_column("status", wrap=True)
    table.add_column("turns", justify="right")
    table.add_column("tokens", justify="right")
    for each in results:
        counts = (f"{len(each.replies):,}", f"{each.generated_tokens:,}")
        table.add_row(each.run_id, each.name, outcome(each), *counts)
    return table


def _row(result: "PlanResult", store: str) -> dict[str, Any]:
    error = result.error
    return {
        "run_id": result.run_id,
        "store": store,
        "name": result.name,
        "plan": None if result.plan is None else result.plan.name,
        "seed": result.seed,
        "status": result.status,
        "turns": len(result.replies),
        "generated_tokens": result.generated_tokens,
        "error": None if error is None else f"{type(error).__name__}: {error}",
    }
