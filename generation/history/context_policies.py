"""The values of `at_context_limit`, and which messages each of them removes."""

from tokentape.recorder.events import PruningPolicy

POLICIES = {
    "refuse": None,
    "prune_tool_results": PruningPolicy.TOOL_RESULTS,
    "prune_turns": PruningPolicy.TURNS,
}
