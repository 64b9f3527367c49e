"""Runs and their forks, as a tree."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rich.text import Text
from rich.tree import Tree

from tokentape.recorder.escapes import visible
from tokentape.recorder.events import RunForked
from tokentape.recorder.projections.summary import RunSummary


@dataclass(slots=True)
class LineageNode:
    """A run with its forks, in the order of the given summaries."""

    summary: RunSummary
    forks: list["LineageNode"] = field(default_factory=list)

    def summaries(self) -> Iterator[RunSummary]:
        """Yield the summaries of the node and of all nodes below it."""
        yield self.summary
        for fork in self.forks:
            yield from fork.summaries()

    def as_json(
        self, errors: Mapping[str, str], forks: Mapping[str, RunForked]
    ) -> dict[str, object]:
        """Return the node and all nodes below it as a JSON object.

        `errors` holds, by run id, the errors of the runs that failed, `forks` how forks began.
        """
        forked = forks.get(self.summary.run_id)
        summary = self.summary
        return {
            "run_id": summary.run_id,
            "name": summary.name,
            "status": summary.status,
            "error": errors.get(summary.run_id),
            "forked_at_turn": summary.forked_at_turn,
            "forked_at_token": None if forked is None else forked.at_token,
            "other_model": [] if forked is None else list(forked.other_model),
            "turns": summary.turns,
            "forks": [fork.as_json(errors, forks) for fork in self.forks],
        }


def lineage_of(run_id: str, summaries: Iterable[RunSummary]) -> LineageNode:
    """Return the tree that a run is in, from its oldest ancestor among the summaries.

    Raise KeyError if the run is not among them.
    """
    nodes = {each.run_id: LineageNode(each) for each in summaries}
    parents: dict[str, LineageNode] = {}
    for child_id, node in nodes.items():
        parent = nodes.get(node.summary.parent_run_id or "")
        # A forged run may name itself as its ancestor.
        if parent is not None and _oldest(parent, parents) is not node:
            parents[child_id] = parent
            parent.forks.append(node)
    return _oldest(nodes[run_id], parents)


def _oldest(node: LineageNode, parents: Mapping[str, LineageNode]) -> LineageNode:
    """Return the oldest ancestor of a node, or the node if it has no parent."""
    while (parent := parents.get(node.summary.run_id)) is not None:
        node = parent
    return node


def draw_lineage(
    node: LineageNode,
    marked_run_id: str,
    statuses: Mapping[str, str],
    forks: Mapping[str, RunForked],
) -> Tree:
    """Return the tree for a terminal, with an asterisk after one run.

    `statuses`, by run id, replace those of the summaries; `forks` are the beginnings of the forks.
    """
    mark = " *" if node.summary.run_id == marked_run_id else ""
    forked = forks.get(node.summary.run_id)
    tree = Tree(_line(node, forked, statuses) + mark, guide_style="dim")
    for fork in node.forks:
        tree.add(draw_lineage(fork, marked_run_id, statuses, forks))
    return tree


def _line(node: LineageNode, forked: RunForked | None, statuses: Mapping[str, str]) -> Text:
    summary = node.summary
    turns = f"{summary.turns} turn{'' if summary.turns == 1 else 's'} of its own"
    at = "" if summary.forked_at_turn is None else f"at turn {summary.forked_at_turn}, "
    if forked is not None:
        at = f"at {forked.place}{forked.with_model}, "
    status = statuses.get(summary.run_id, summary.status)
    run_id, name, status = map(visible, (summary.run_id, summary.name, status))
    return Text(f"{run_id}  {name}  {at}{turns}, {status}")
