"""Changes inside the model during a turn: interventions, adapters, hooks and own processors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokentape.recorder.escapes import visible
from tokentape.recorder.events import CacheDecided, InterventionApplied, TurnStarted
from tokentape.recorder.projections.active_interventions import ActiveRange

ADAPTERS, HOOKS = "adapters", "hooks"
"""Parts of the cache key that belong here."""

# A rule may pause at every second token.
_SPANS_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class InsideModel:
    """Interventions, adapters, foreign hooks and own processors of a turn."""

    interventions: tuple[ActiveRange, ...]
    """Those on its prompt and reply, in the order in which they act."""
    adapters: str
    """The names of the active adapters and a hash of their state; empty for none, and in recordings
    of version 0.1.0."""
    hooks: str
    """`foreign` if the user's own hooks were in the model: nothing else is recorded of them."""
    unreplayable: tuple[str, ...]
    """Classes of the user's own processors and criteria, and other arguments that no event can
    restore."""
    first_new: int
    """The first position that the turn added; earlier ones were computed in earlier turns."""
    tokens: int
    """Tokens of the prompt and the reply."""

    @classmethod
    def of(
        cls,
        started: TurnStarted,
        cache: CacheDecided | None,
        *,
        interventions: tuple[ActiveRange, ...],
        message_ids: int,
        stream_tokens: int,
    ) -> "InsideModel":
        """Return the changes of a turn.

        `message_ids` are the tokens of the messages that it added, `stream_tokens` those of its
        prompt and reply.
        """
        key: Mapping[str, Any] = {} if cache is None else cache.key
        return cls(
            interventions=interventions,
            adapters=str(key.get(ADAPTERS, "")),
            hooks=str(key.get(HOOKS, "")),
            unreplayable=started.unreplayable_arguments,
            first_new=max(0, started.kept_tokens - message_ids),
            tokens=stream_tokens,
        )

    def brief(self) -> str:
        """Return the changes for a cell of a table.

        An intervention that acts on tokens of earlier turns alone is in parentheses.
        """
        named: dict[str, bool] = {}
        for each in self.interventions:
            text = f"{each.name}: {_rule_in_short(each.applied)}"
            named[text] = named.get(text, False) or (each.end or self.tokens) > self.first_new
        parts = [text if is_new else f"({text})" for text, is_new in named.items()]
        if self.adapters:
            parts.append(f"adapters: {self.adapters.rpartition(' ')[0] or self.adapters}")
        if self.hooks:
            parts.append("foreign hooks")
        if self.unreplayable:
            parts.append(f"not replayable: {', '.join(self.unreplayable)}")
        return ", ".join(parts)

    def lines(self) -> Iterator[str]:
        """Yield a line for each change, escaped."""
        for applied, ranges in self.grouped():
            where = ", ".join(f"{start}–{end - 1}" for start, end in ranges[:_SPANS_SHOWN])
            if len(ranges) > _SPANS_SHOWN:
                where += f" and {len(ranges) - _SPANS_SHOWN} more"
            yield f"intervention {applied.describe_rule()}, at positions {where}"
        if self.adapters:
            yield f"adapters: {visible(self.adapters)}"
        if self.hooks:
            yield "foreign hooks, of which nothing is recorded"
        if self.unreplayable:
            names = visible(", ".join(self.unreplayable))
            yield f"not replayable: {names}"

    def as_json(self) -> dict[str, Any]:
        """Return the changes as `--json` prints them."""
        return {
            "interventions": [
                {"name": applied.name} | applied.definition() | {"acts_on": ranges}
                for applied, ranges in self.grouped()
            ],
            "adapters": self.adapters,
            "hooks": self.hooks,
            "unreplayable": list(self.unreplayable),
        }

    def grouped(self) -> list[tuple[InterventionApplied, list[tuple[int, int]]]]:
        """Return each intervention once, with the half-open ranges that it acts on.

        One that was applied several times in the same way is one intervention.
        """
        found: list[tuple[InterventionApplied, list[tuple[int, int]]]] = []
        for each in self.interventions:
            span = each.start, self.tokens if each.end is None else each.end
            for applied, ranges in found:
                if (applied.name, applied.definition()) == (each.name, each.applied.definition()):
                    ranges.append(span)
                    break
            else:
                found.append((each.applied, [span]))
        return [(applied, _joined(ranges)) for applied, ranges in found]


def _rule_in_short(applied: InterventionApplied) -> str:
    """Return kind, coefficient and layers; of many layers the first."""
    kind = str(applied.kind)
    if applied.coefficient is not None:
        kind += f" {applied.coefficient:g}"
    first, *others = applied.layers
    return f"{kind} in {first}" + (f" and {len(others)} more" if others else "")


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
