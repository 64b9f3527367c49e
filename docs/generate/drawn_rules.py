"""Diagrams of rules: which room imports which, families of events, cache decisions, replays."""

import inspect
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokentape as tt
from docs.generate.events import families_of_events
from docs.generate.svg import LINE_HEIGHT, WIDTH, Drawing, width_of
from tokentape.generation.cache.reuse import Reuse, decide_reuse
from tokentape.recorder.events.traits import BelongsTo

ROOT = Path(__file__).resolve().parents[2]


def draw_rooms() -> str:
    """Draw the folders and the direction of imports, from the contracts of import-linter."""
    drawing = Drawing(
        "Which folder may import which",
        "Boxes from top to bottom: the door, replay, generation and store, recorder. A folder may "
        "import those below it. Beside them the layers within generation and within replay.",
    )
    layers = _layers()
    columns = (
        ("tokentape", [_door(), *layers["tokentape"]]),
        ("tokentape.generation", layers["tokentape.generation"]),
        ("tokentape.replay", layers["tokentape.replay"]),
    )
    bottom, width = 0.0, (WIDTH - 40) / 3
    for column, (title, names) in enumerate(columns):
        x, y = 14 + column * (width + 6), 44.0
        drawing.text(x + width / 2, 30, title, "strong", anchor="middle")
        for index, name in enumerate(names):
            lines = _rows_of_layer(name, width)
            height = len(lines) * LINE_HEIGHT + 10
            drawing.box(x, y, width, height, style="blue" if column == 0 else "box")
            for line, text in enumerate(lines):
                middle = y + 18 + line * LINE_HEIGHT
                drawing.text(x + width / 2, middle, text, anchor="middle")
            y += height
            if index < len(names) - 1:
                drawing.arrow(x + width / 2, y, x + width / 2, y + 14)
                y += 14
        bottom = max(bottom, y)
    drawing.y = bottom + 8
    drawing.paragraph(
        "A box imports boxes below it. Folders in one box with | do not import each other. "
        "migrations imports nothing of ours.",
        x=14,
    )
    return drawing.to_svg()


def _contracts() -> list[dict[str, Any]]:
    """Return the contracts of import-linter."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts: list[dict[str, Any]] = settings["tool"]["importlinter"]["contracts"]
    return contracts


def _layers() -> dict[str, list[str]]:
    """Return the layers of each container, the highest first."""
    layered = (each for each in _contracts() if each["type"] == "layers")
    return {each["containers"][0]: each["layers"] for each in layered}


def _door() -> str:
    """Return the modules that no folder may import, as one layer."""
    (contract,) = (each for each in _contracts() if each["name"] == "No room imports the door")
    return " : ".join(each.removeprefix("tokentape.") for each in contract["forbidden_modules"])


def _rows_of_layer(layer: str, width: float) -> list[str]:
    """Return the names of a layer in rows that fit into a box."""
    mark = " | " if "|" in layer else " · "
    rows: list[str] = []
    for name in layer.replace("|", ":").split(" : "):
        joined = f"{rows[-1]}{mark}{name.strip()}" if rows else name.strip()
        if rows and width_of(joined) > width:
            rows[-1] += mark.rstrip()
            rows.append(name.strip())
        else:
            rows[-1:] = [joined]
    return rows


def draw_families() -> str:
    """Draw the classes of events by family, with the traits that they declare."""
    drawing = Drawing(
        "The events by family",
        "One row for each family of events; the text of each box is a class of events. Durable "
        "classes are blue, classes that carry a seal have the word seal.",
    )
    for module, classes in families_of_events().items():
        about = (inspect.getdoc(sys.modules[module]) or "").partition("\n")[0]
        drawing.text(20, drawing.y + 24, module.rpartition(".")[2], "strong")
        drawing.y += 24 - LINE_HEIGHT
        drawing.paragraph(about, x=120)
        x, y = 20.0, drawing.y + 8
        for cls in classes:
            marks = [
                word
                for word, holds in (
                    ("seal", cls.traits.sealed),
                    ("payload", bool(cls.traits.payload)),
                    ("run", cls.traits.belongs_to is BelongsTo.RUN),
                )
                if holds
            ]
            label = f"{cls.__name__} ({', '.join(marks)})" if marks else cls.__name__
            width = width_of(label)
            if x + width > WIDTH - 20:
                x, y = 20, y + 30
            drawing.box(x, y, width, 24, [label], "blue" if cls.traits.durable else "box")
            x += width + 6
        drawing.y = y + 28
    drawing.y += 6
    drawing.paragraph(
        "Blue: durable, so that a loss of power cannot lose it; the others survive the death of "
        "the process. seal: carries a seal over all events up to it. payload: refers to a blob. "
        "run: belongs to the run, not to a turn."
    )
    return drawing.to_svg()


_CASES: tuple[tuple[str, Sequence[int], Sequence[int]], ...] = (
    ("the first prompt", (), range(12)),
    ("the next turn of a conversation", range(8), range(12)),
    ("the same prompt again, shorter", range(12), range(8)),
    ("another message after the same beginning", range(10), (*range(6), *range(90, 96))),
    (
        "other interventions from token 6 on",
        (*range(6), *(i | 1 << 32 for i in range(6, 10))),
        range(12),
    ),
    ("another system prompt", range(10), (*range(90, 92), *range(2, 12))),
)
"""What happened, the ids in the cache, and the prompt."""


def draw_decisions() -> str:
    """Draw what `decide_reuse` says of six pairs of a cached sequence and a prompt."""
    drawing = Drawing(
        "The cache decision",
        "Six cases, each with the ids in the cache above those of the prompt: reused ids are "
        "blue, computed ones orange, and cached ids that are cut off are dashed.",
    )
    for happened, cached, prompt in _CASES:
        reuse = decide_reuse(cached, prompt)
        drawing.y += 26
        drawing.text(20, drawing.y, f"{reuse.decision}: {reuse.reason}", "strong")
        drawing.text(WIDTH - 20, drawing.y, happened, "quiet", anchor="end")
        drawing.y += 10
        _draw_ids(drawing, "cache", len(cached), reuse, kept="blue", others="empty")
        _draw_ids(drawing, "prompt", len(prompt), reuse, kept="blue", others="orange")
    drawing.y += 6
    drawing.paragraph(
        "Blue: reused. Orange: computed, at least the last one, whose logits choose the first new "
        "token. Dashed: in the cache and not reused."
    )
    return drawing.to_svg()


def _draw_ids(
    drawing: Drawing, name: str, count: int, reuse: Reuse, *, kept: str, others: str
) -> None:
    drawing.text(20, drawing.y + 16, name, "quiet")
    for index in range(count):
        style = kept if index < reuse.reused_tokens else others
        drawing.box(84 + index * 27, drawing.y + 3, 24, 18, style=style)
    counted = f"{reuse.reused_tokens} reused"
    if name == "prompt":
        drawing.text(WIDTH - 20, drawing.y + 16, counted, anchor="end")
    drawing.y += 24


def draw_replays() -> str:
    """Draw the four replays, and the verdicts from best to worst."""
    drawing = Drawing(
        "The four replays and their verdicts",
        "On top the replays rebuild, verify, retrace and regenerate with what each does; below "
        "them the verdicts from best to worst with their exit codes.",
    )
    replays = {
        "rebuild": (tt.rebuild, "events only"),
        "verify": (tt.verify, "events and model"),
        "retrace": (tt.retrace, "events and model"),
        "regenerate": (tt.regenerate, "events and model"),
    }
    for name, (function, needs) in replays.items():
        before = drawing.y
        drawing.box(20, before + 6, 150, 42, [name, needs])
        about = (inspect.getdoc(function) or "").partition("\n\n")[0]
        drawing.y += 4
        drawing.paragraph(" ".join(about.replace("`", "").split()), x=184, style="")
        drawing.y = max(before + 52, drawing.y + 4)
    drawing.y += 20
    drawing.paragraph("The last three give a verdict. From best to worst:", style="")
    x = 20.0
    for verdict in tt.Verdict:
        width = width_of(str(verdict))
        style = "blue" if verdict.passes else "orange"
        drawing.box(x, drawing.y + 10, width, 24, [str(verdict)], style)
        drawing.text(x + width / 2, drawing.y + 52, _exit_code(verdict), "quiet", anchor="middle")
        x += width + 7
    drawing.y += 56
    return drawing.to_svg()


def _exit_code(verdict: tt.Verdict) -> str:
    return "exit 0" if verdict.passes else "exit 1"
