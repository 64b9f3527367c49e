"""Runs and their forks, as a tree."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.text import Text
from rich.tree import Tree

from tokentape.recorder.projections.summary import RunSummary


@dataclass(slots=True)
class LineageNode:
    """A run with its forks, in the order of the given summaries."""

    summary: RunSummary
    forks: list["LineageNode"] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """Return the node and all nodes below it as a JSON object."""
        summary = self.summary
        return {
            "run_id": summary.run_id,
            "name": summary.name,
            "status": summary.status,
            "forked_at_turn": summary.forked_at_turn,
            "turns": summary.turns,
            "forks": [fork.as_json() for fork in self.forks],
        }


def lineage_of(run_id: str, summaries: Iterable[RunSummary]) -> LineageNode:
    """Return the tree that a run is in, from its oldest ancestor among the summaries.

    Raise KeyError if the run is not among them.
    """
    nodes = {each.run_id: LineageNode(each) for each in summaries}
    for node in nodes.values():
        parent = nodes.get(node.summary.parent_run_id or "")
        if parent is not None:
            parent.forks.append(node)
    oldest, seen = nodes[run_id], {run_id}
    while (parent_id := oldest.summary.parent_run_id) in nodes and parent_id not in seen:
        seen.add(parent_id)
        oldest = nodes[parent_id]
    return oldest


def draw_lineage(node: LineageNode, marked_run_id: str) -> Tree:
    """Return the tree for a terminal, with an asterisk after one run."""
    tree = Tree(_line(node, marked_run_id), guide_style="dim")
    _add_forks(tree, node.forks, marked_run_id)
    return tree


def _add_forks(tree: Tree, forks: Sequence[LineageNode], marked_run_id: str) -> None:
    for fork in forks:
        _add_forks(tree.add(_line(fork, marked_run_id)), fork.forks, marked_run_id)


def _line(node: LineageNode, marked_run_id: str) -> Text:
    summary = node.summary
    turns = f"{summary.turns} turn{'' if summary.turns == 1 else 's'} of its own"
    at = "" if summary.forked_at_turn is None else f"at turn {summary.forked_at_turn}, "
    mark = " *" if summary.run_id == marked_run_id else ""
    return Text(f"{summary.run_id}  {summary.name}  {at}{turns}, {summary.status}{mark}")
