"""`python -m benchmarks`: the commands.

Exit codes: 0 measured; 1 two results that must be equal differ; 2 it cannot be measured here.
"""

import sys
import warnings
from typing import Annotated, Any

import torch
import transformers
import typer

from benchmarks.generation import commands as generation
from benchmarks.gpu import commands as gpu
from benchmarks.gpu import gather_wheels
from benchmarks.parity import commands as parity
from benchmarks.peers import commands as peers
from benchmarks.replay import bulk_command
from benchmarks.replay import commands as replay
from benchmarks.start import commands as start
from benchmarks.store import commands as store
from benchmarks.store import postgres_command
from benchmarks.summary import commands as summary
from benchmarks.view import commands as view

app = typer.Typer(
    name="benchmarks",
    help="Measure what tokentape costs and saves, side by side with other software.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of torch; use fewer than cores on a shared machine."),
    ] = None,
) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    if not sys.warnoptions:
        # Warnings of libraries would interrupt the tables.
        warnings.simplefilter("ignore")
        log: Any = transformers.logging
        log.set_verbosity_error()
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


app.command("all")(summary.all_command)
app.command("page")(summary.page_command)
app.command("parity")(parity.parity_command)
app.command("prefill")(generation.prefill_command)
app.command("decode")(generation.decode_command)
app.command("peers")(peers.peers_command)
app.command("batch")(peers.batch_command)
app.command("step-profile")(generation.step_profile_command)
app.command("conversation")(generation.conversation_command)
app.command("store")(store.store_command)
app.command("postgres")(postgres_command.postgres_command)
app.command("start")(start.start_command)
app.command("watch")(generation.watch_command)
app.command("view")(view.view_command)
app.command("replay")(replay.replay_command)
app.command("bulk")(bulk_command.bulk_command)
app.command("faults")(replay.faults_command)
app.command("dtypes")(replay.dtypes_command)
app.command("cuda")(generation.cuda_command)
app.command("gpu")(gpu.gpu_command)
app.command("gpu-wheels")(gather_wheels.gpu_wheels_command)


if __name__ == "__main__":
    app()
