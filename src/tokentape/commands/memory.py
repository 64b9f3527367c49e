"""The command `plan`: the memory of a run, reckoned before it begins."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.options import JsonOption
from tokentape.screen import Table, out

if TYPE_CHECKING:
    from tokentape.generation.plans import MemoryPlan
    from tokentape.generation.plans.memory_plan import TurnMemory

_GIB, _MIB = 1024**3, 1024**2


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The model: smollm2-demo, a folder, a GGUF file, a hub id in the cache, or a "
        "config.json. Its weights are not read.",
    ),
]
ProtocolOption = Annotated[
    str, typer.Option(help="The experiment plan: one that `run --list` shows, or a YAML file.")
]
PromptTokensOption = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,…",
        help="The lengths of the prompts, turn by turn, in place of those of a plan.",
    ),
]
NewTokensOption = Annotated[
    int | None,
    typer.Option(min=1, help="The most tokens of a reply; default: the plan's, else 500."),
]
DeviceOption = Annotated[
    str, typer.Option(help="The device, with its memory (cuda:24GiB), or what is free now.")
]
DtypeOption = Annotated[
    str, typer.Option(help="The dtype, such as bfloat16, or auto for the checkpoint's.")
]
ComputeDtypeOption = Annotated[
    str | None,
    typer.Option(help="The dtype to compute in, if it is wider than that of the weights."),
]
QuantizationOption = Annotated[
    str | None,
    typer.Option(help="How the weights are packed: int8, int4, int2 or float8 (by quanto)."),
]
KernelOption = Annotated[
    str | None, typer.Option(help="The attention kernel; default: sdpa if there is one.")
]
ChunkOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="The most tokens of a prefill's forward; 0 for all at once; default: the run's."
    ),
]


def plan(
    model: ModelArgument = "smollm2-demo",
    protocol: ProtocolOption = "demo",
    prompt_tokens: PromptTokensOption = None,
    max_new_tokens: NewTokensOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    compute_dtype: ComputeDtypeOption = None,
    quantization: QuantizationOption = None,
    attn_implementation: KernelOption = None,
    prefill_chunk_tokens: ChunkOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reckon the memory of a run without loading the model: how many turns fit, and a budget."""
    with output.working(f"reading the config of {model}"):
        found = tt.plan_memory(
            model,
            protocol=protocol,
            prompt_tokens=_numbers(prompt_tokens),
            max_new_tokens=max_new_tokens,
            device=device,
            dtype=dtype,
            compute_dtype=compute_dtype,
            quantization=quantization,
            attn_implementation=attn_implementation,
            prefill_chunk_tokens=prefill_chunk_tokens,
        )
    if as_json:
        output.print_json(asdict(found) | {"free_bytes": found.free_bytes})
        return
    out.lines(_summary(found))
    out.show(_turns(found))
    out.lines(_conclusion(found))


def _numbers(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    parts = text.split(",")
    if not all(each.strip().isdecimal() for each in parts):
        raise typer.BadParameter(f"--prompt-tokens {text!r}: give whole numbers, such as 6287,6614")
    return tuple(int(each) for each in parts)


def _summary(found: "MemoryPlan") -> list[str]:
    largest = found.largest
    pieces = {name: size for name, size in asdict(largest.transient).items() if size >= _MIB}
    rows = [
        ("weights", found.weights_bytes, f"{found.parameters:,} parameters in {found.dtype}"),
        (
            f"caches in turn {largest.turn}",
            largest.kv_bytes,
            f"{found.kv_bytes_per_1000_tokens / _MIB:,.1f} MiB per 1,000 tokens",
        ),
        (
            "transient",
            largest.transient.total,
            ", ".join(f"{name} {size / _MIB:,.0f} MiB" for name, size in pieces.items()),
        ),
        ("reserve", found.reserve_bytes, "driver or process, and blocks that are too small"),
        ("left" if found.free_bytes >= 0 else "missing", abs(found.free_bytes), ""),
    ]
    head = f"{found.model}: {found.family}, {found.attention} attention"
    device = f"{found.device} with {found.device_bytes / _GIB:,.2f} GiB"
    return [
        f"{head}, on {device}",
        "",
        *(f"  {name:18} {size / _GIB:8,.2f} GiB  {text}".rstrip() for name, size, text in rows),
        "",
    ]


def _turns(found: "MemoryPlan") -> Table:
    table = Table()
    drops = {"reply": 3, "computed": 2, "transient MiB": 1}
    headings = ("turn", "prompt", "computed", "reply", "caches MiB", "transient MiB", "total GiB")
    for heading in headings:
        table.add_column(heading, justify="right", drop=drops.get(heading))
    table.add_column("fits")
    for turn in found.turns:
        table.add_row(
            str(turn.turn),
            f"{turn.prompt_tokens:,}",
            f"{turn.computed_tokens:,}",
            f"{turn.new_tokens:,}",
            f"{turn.kv_bytes / _MIB:,.1f}",
            f"{turn.transient.total / _MIB:,.1f}",
            f"{turn.needed_bytes / _GIB:,.2f}",
            _fits(turn, found.device_bytes),
        )
    return table


def _fits(turn: "TurnMemory", device_bytes: int) -> str:
    if turn.fits:
        return "yes"
    return "no: memory" if turn.needed_bytes > device_bytes else "no: context"


def _conclusion(found: "MemoryPlan") -> list[str]:
    turns = len(found.turns)
    lines = ["", f"{found.turns_fit} of {turns} turns fit"]
    if found.turns_at_this_growth is not None and found.turns_fit == turns:
        lines[-1] += f"; {found.turns_at_this_growth} would, if the prompts grew on like this"
    budget = found.budget
    if budget is None:
        lines.append("budget: none; the weights alone do not fit")
    else:
        settings = ", ".join(f"{name}={value}" for name, value in asdict(budget).items())
        lines.append(f"budget: {settings}")
    return [*lines, *(f"note: {each}" for each in found.notes)]
