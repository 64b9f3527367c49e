"""Runs and what was forked from them, as a tree."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.text import Text
from rich.tree import Tree

from tokentape.recorder.projections import RunSummary


@dataclass(slots=True)
class Relative:
    """A run with its forks, in the order in which they began."""

    summary: RunSummary
    forks: list["Relative"] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        each = self.summary
        return {
            "run_id": each.run_id,
            "name": each.name,
            "status": each.status,
            "forked_at_turn": each.forked_at_turn,
            "turns": each.turns,
            "forks": [fork.as_json() for fork in self.forks],
        }


def family_of(run_id: str, summaries: Iterable[RunSummary]) -> Relative:
    """The whole family of a run, from the oldest ancestor that the store has."""
    everyone = {each.run_id: Relative(each) for each in summaries}
    for each in everyone.values():
        parent = everyone.get(each.summary.parent_run_id or "")
        if parent is not None:
            parent.forks.append(each)
    oldest, seen = everyone[run_id], {run_id}
    while (parent_id := oldest.summary.parent_run_id) in everyone and parent_id not in seen:
        seen.add(parent_id)
        oldest = everyone[parent_id]
    return oldest


def drawn(relative: Relative, marked_run_id: str) -> Tree:
    """The tree as a terminal shows it, one run marked."""
    tree = Tree(_line(relative, marked_run_id), guide_style="dim")
    _add(tree, relative.forks, marked_run_id)
    return tree


def _add(tree: Tree, forks: Sequence[Relative], marked_run_id: str) -> None:
    for fork in forks:
        _add(tree.add(_line(fork, marked_run_id)), fork.forks, marked_run_id)


def _line(relative: Relative, marked_run_id: str) -> Text:
    each = relative.summary
    own = f"{each.turns} turn{'' if each.turns == 1 else 's'}"
    at = "" if each.forked_at_turn is None else f"at turn {each.forked_at_turn}, "
    mark = " *" if each.run_id == marked_run_id else ""
    return Text(f"{each.run_id}  {each.name}  {at}{own} of its own, {each.status}{mark}")
