"""Diagrams of a recorded run: its stream of events, its seals, and the seeds of its turns."""

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import tokentape as tt
from docs.generate.svg import WIDTH, Drawing, width_of
from tokentape.recorder.derived_seeds import round_seed, turn_seed
from tokentape.recorder.events import EVENT_CLASSES
from tokentape.recorder.record import Record
from tokentape.recorder.seals import SealCheck

TAPE = Path(__file__).resolve().parents[2] / "examples" / "ci" / "recordings" / "greedy.tape"
RUN_SEED = 7


def _recorded() -> tuple[str, list[Record]]:
    """Return the id of the run in the example's tape, and its records."""
    with tt.open_store(TAPE) as store:
        (summary,) = store.summaries()
        return summary.run_id, list(store.recording(summary.run_id).records())


def draw_stream() -> str:
    """Draw the events of the example's tape in their order, turn by turn."""
    drawing = Drawing(
        "The stream of a recorded run",
        "The events of a run of three turns in the order of their numbers, one row for each turn. "
        "Each turn ends with a sealed event.",
    )
    _, records = _recorded()
    for turn, group in groupby(records, key=lambda each: each.turn):
        in_turn = list(group)
        title = "the run" if turn is None else f"turn {turn}"
        drawing.y += 24
        drawing.text(20, drawing.y, title, "strong")
        drawing.text(110, drawing.y, f"seq {in_turn[0].seq} to {in_turn[-1].seq}", "quiet")
        x, y = 20.0, drawing.y + 8
        for kind, same in groupby(in_turn, key=lambda each: each.kind):
            count = len(list(same))
            sealed = EVENT_CLASSES[kind].traits.sealed
            label = kind + (f" × {count}" if count > 1 else "") + (" + seal" if sealed else "")
            width = width_of(label)
            if x + width > WIDTH - 20:
                x, y = 20, y + 30
            style = "orange" if sealed else "blue" if kind == "TokenSampled" else "box"
            drawing.box(x, y, width, 24, [label], style)
            x += width + 6
        drawing.y = y + 28
    drawing.y += 6
    drawing.paragraph(
        "Left to right, then down. Blue: one event for each token of the reply. Orange: events "
        "that carry a seal."
    )
    return drawing.to_svg()


def draw_seals() -> str:
    """Draw the seals of the example's tape, and which fail after one event is changed."""
    drawing = Drawing(
        "The chain of seals",
        "Each seal covers the seal before it and the events since. After a change in turn 2 the "
        "seal of turn 2 does not fit, and every later seal depends on it.",
    )
    run_id, records = _recorded()
    check = SealCheck(run_id)
    for record in records:
        check.add(record)
    whole = check.report()
    fault = _fault_after_a_change(run_id, records)
    first = 0
    for index, point in enumerate(whole.points):
        last = point.events - 1
        y = drawing.y + 10
        name = "the end of the run" if index == len(whole.points) - 1 else f"turn {index + 1}"
        drawing.box(20, y, 230, 44, [name, f"events {first} to {last}"])
        drawing.arrow(250, y + 22, 282, y + 22)
        broken = fault is not None and last >= fault
        seal = f"{point.seal[:24]}…"
        drawing.box(290, y, 220, 44, ["seal", seal], "orange" if broken else "blue")
        drawing.text(WIDTH - 16, y + 27, "does not fit" if broken else "fits", anchor="end")
        if index < len(whole.points) - 1:
            drawing.arrow(400, y + 44, 400, y + 62)
        first, drawing.y = last + 1, y + 52
    drawing.y += 6
    drawing.paragraph(
        "A seal is a hash of the seal above it and of the events on its left. One token of turn 2 "
        f"was changed in a copy: the check stops at event {fault}, whose seal does not fit. Up to "
        "turn 1 the copy is the recording; later seals depend on the one that does not fit."
    )
    return drawing.to_svg()


def _fault_after_a_change(run_id: str, records: list[Record]) -> int | None:
    """Return the event at which a check stops if the first token of turn 2 is another one."""
    check, is_changed = SealCheck(run_id), False
    for record in records:
        changed = record
        if not is_changed and record.turn == 2 and not isinstance(record.body, str):
            token_id = record.body["token_id"] + 1
            changed, is_changed = replace(record, body={**record.body, "token_id": token_id}), True
        check.add(changed)
        if check.fault:
            return record.seq
    return None


def draw_seeds() -> str:
    """Draw how the seeds of turns and rounds follow from that of a run, with real numbers."""
    drawing = Drawing(
        "From the seed of a run to the draws of its tokens",
        "The seed of a run gives a seed for each turn, that of a turn one for each further round, "
        "and each round has a generator of its own, from which one draw is taken for each token.",
    )
    top = drawing.y + 8
    drawing.box(20, top, 120, 44, ["the run", f"seed {RUN_SEED}"], "blue")
    for turn in (1, 2, 3):
        y = top + (turn - 1) * 74
        seed = turn_seed(RUN_SEED, turn)
        drawing.arrow(140 if turn == 1 else 80, y + 22, 172, y + 22)
        if turn > 1:
            drawing.elbow(80, top + 44, y + 22)
        drawing.box(176, y, 190, 44, [f"turn {turn}", str(seed)])
        drawing.arrow(366, y + 22, 388, y + 22)
        drawing.box(392, y, 228, 44, ["draws of its tokens", "1, 2, 3, …"], "empty")
        drawing.y = y + 44
    y = drawing.y + 30
    seed = round_seed(turn_seed(RUN_SEED, 3), 12)
    drawing.arrow(271, drawing.y, 271, y)
    drawing.box(176, y, 190, 44, ["its next round", str(seed)])
    drawing.text(280, y - 10, "after a tool call at token 12", "quiet")
    drawing.arrow(366, y + 22, 388, y + 22)
    drawing.box(392, y, 228, 44, ["draws of its tokens", "1, 2, 3, …"], "empty")
    drawing.y = y + 50
    drawing.paragraph(
        f"The numbers are those of a run with the seed {RUN_SEED}. A generator belongs to one "
        "round; torch's global generator is neither used nor changed."
    )
    return drawing.to_svg()
