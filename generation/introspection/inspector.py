"""A model that can be looked into while a conversation with it is under way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokentape.generation.errors import ToolError
from tokentape.generation.hooks.forward_positions import RECOMPUTED
from tokentape.generation.hooks.layers import find_layer
from tokentape.generation.introspection.activations import ActivationMonitor
from tokentape.generation.introspection.attention import attention_row
from tokentape.generation.introspection.logit_lens import lens_logits
from tokentape.generation.introspection.recomputing import forward_anew
from tokentape.generation.introspection.rounding import rounded
from tokentape.generation.introspection.spans import Span, observed
from tokentape.generation.introspection.weights import WeightInspector
from tokentape.generation.models.loading import LoadedModel
from tokentape.recorder.events import ActivationObserved

COMPACT_ACTIVATIONS = (
    "mean",
    "std",
    "l2_norm_mean",
    "l2_norm_max",
    "abs_max",
    "abs_max_position",
    "abs_max_channel",
    "near_zero_percentage",
    "not_finite",
    "calls_per_forward",
)
_COMPACT_DIGITS = 4
_LAYERS_MAX = 64
_TOP_MAX = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The conversation under way: its ids so far, its turn, and who watches it, if anybody."""

    ids: Callable[[], Sequence[int]]
    turn: Callable[[], int]
    monitor: Callable[[], ActivationMonitor | None]


class Inspector:
    """Looks at weights at any time, and at what a conversation does to them once it is bound."""

    def __init__(self, lm: LoadedModel) -> None:
        self.model = lm.model
        self.weights = WeightInspector(lm.model)
        self._tokenizer = lm.tokenizer
        self._session: Session | None = None
        self._events: list[ActivationObserved] = []

    def bind(
        self,
        *,
        ids: Callable[[], Sequence[int]],
        turn: Callable[[], int],
        monitor: Callable[[], ActivationMonitor | None] = lambda: None,
    ) -> None:
        """Say which conversation is under way, and who watches it."""
        self._session = Session(ids=ids, turn=turn, monitor=monitor)

    def unbind(self) -> None:
        self._session = None

    def take(self) -> list[ActivationObserved]:
        """What was recomputed since the last time.

        To be called and recorded when a tool has answered: tools run in threads of their own, and a
        store is written to by one.
        """
        taken, self._events = self._events, []
        return taken

    def get_activation_statistics(
        self,
        layer_name: str | int | Sequence[str | int],
        compact: bool = False,
        recompute: bool = False,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Statistics of what one layer gave, or a list of them for a list of names.

        They are of the newest stretch that was computed for it, and say which: `source`,
        `positions`, and how many of these were computed, `positions_covered`. Tokens from the cache
        are not computed: `recompute` forwards the conversation once more, and `take` then has the
        event of it. Raises ToolError where nothing was computed.
        """
        session = self._bound()
        names = [layer_name] if isinstance(layer_name, str | int) else list(layer_name)
        if len(names) > _LAYERS_MAX:
            raise ToolError(f"{len(names)} layers at once are too many: at most {_LAYERS_MAX}")
        layers = [find_layer(self.model, name)[0] for name in names]
        spans = self._recomputed(layers, session) if recompute else _watched(layers, session)
        found = [_described(spans[layer], compact=compact) for layer in layers]
        return found[0] if isinstance(layer_name, str | int) else found

    def get_attention_patterns(
        self, layer: str | int, head: int | None, *, position: int, top: int
    ) -> dict[str, Any]:
        """Where a position looks at most, the mean over heads if none is named."""
        session = self._bound()
        ids = tuple(session.ids())
        name, place, rows = attention_row(
            self.model, ids, layer, position=position, turn=session.turn()
        )
        heads = rows.shape[0]
        if head is not None and (isinstance(head, bool) or not 0 <= int(head) < heads):
            raise ToolError(f"there is no head {head!r}: {name} has {heads}, from 0 to {heads - 1}")
        row = rows.mean(dim=0) if head is None else rows[int(head)]
        first = place + 1 - row.numel()
        best = row.topk(min(_limited(top), row.numel()))
        return {
            "layer": name,
            "head": "mean of all" if head is None else int(head),
            "position": place,
            "kernel": "eager",
            "entropy": rounded(_entropy(row), _COMPACT_DIGITS),
            "on_itself": rounded(row[-1].item(), _COMPACT_DIGITS),
            "on_first_key": rounded(row[0].item(), _COMPACT_DIGITS),
            "top": [
                {
                    "position": first + key,
                    "token": self._text(ids[first + key]),
                    "weight": rounded(weight, _COMPACT_DIGITS),
                }
                for key, weight in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ],
            "entropy_by_head": [rounded(_entropy(each), _COMPACT_DIGITS) for each in rows],
        }

    def get_logit_lens(
        self, layers: str | int | Sequence[str | int], *, position: int, top: int
    ) -> dict[str, Any]:
        """The likeliest next tokens after a position, as they stand at each layer."""
        session = self._bound()
        # A single name is what a model may well give in place of a list of one.
        layers = [layers] if isinstance(layers, str | int) else layers
        if not layers or len(layers) > _LAYERS_MAX:
            raise ToolError(f"ask for 1 to {_LAYERS_MAX} layers, not {len(layers)}")
        ids = tuple(session.ids())
        place, by_layer = lens_logits(
            self.model, ids, layers, position=position, turn=session.turn()
        )
        return {
            "position": place,
            "after": self._text(ids[place]),
            "layers": [
                {"layer": name, "top": self._likeliest(logits, _limited(top))}
                for name, logits in by_layer.items()
            ],
        }

    def _bound(self) -> Session:
        if self._session is None:
            raise ToolError(
                "no conversation is under way: activations are there during an investigation only"
            )
        return self._session

    def _recomputed(self, layers: Sequence[str], session: Session) -> dict[str, Span]:
        watcher = ActivationMonitor(
            self.model, layers, full=True, events=False, sources=(RECOMPUTED,)
        )
        forward_anew(self.model, tuple(session.ids()), turn=session.turn(), watcher=watcher)
        spans = {layer: watcher.newest(layer) for layer in layers}
        found = {layer: span for layer, span in spans.items() if span is not None}
        self._events += observed(found.values(), full=False)
        missing = [layer for layer in layers if layer not in found]
        if missing:
            raise ToolError(f"{missing[0]} gives nothing that could be measured, or was not run")
        return found

    def _likeliest(self, logits: torch.Tensor, top: int) -> list[dict[str, Any]]:
        best = logits.softmax(dim=-1).topk(min(top, logits.numel()))
        return [
            {"token": self._text(token), "probability": rounded(share, _COMPACT_DIGITS)}
            for token, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _text(self, token_id: int) -> str:
        return str(self._tokenizer.decode([token_id]))


def _watched(layers: Sequence[str], session: Session) -> dict[str, Span]:
    monitor = session.monitor()
    found = {}
    for layer in layers:
        span = monitor.newest(layer) if monitor is not None else None
        if span is None:
            raise ToolError(
                f"nothing was computed for {layer} while it was watched, and tokens from the "
                "cache give no activations: ask again with recompute=True"
            )
        found[layer] = span
    return found


def compact_activations(statistics: dict[str, Any]) -> dict[str, Any]:
    """The few of them that fit into a conversation, to four digits."""
    kept = ("name", "source", "positions", "positions_covered", *COMPACT_ACTIVATIONS)
    return {
        name: rounded(value, _COMPACT_DIGITS) for name, value in statistics.items() if name in kept
    }


def _described(span: Span, *, compact: bool) -> dict[str, Any]:
    found = {
        "name": span.layer,
        "source": span.source,
        "positions": [span.start, span.end],
        "positions_covered": span.positions_covered,
        **span.statistics(full=not compact),
        "computed_in": "float32",
    }
    return compact_activations(found) if compact else found


def _entropy(row: torch.Tensor) -> float:
    """In nats."""
    return float(torch.special.entr(row).sum())


def _limited(top: int) -> int:
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= _TOP_MAX:
        raise ToolError(f"top must be a whole number from 1 to {_TOP_MAX}: {top!r}")
    return top
