"""Inspection of a model's weights, and of its activations in a conversation."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from tokentape.generation.errors import ToolError
from tokentape.generation.history.decoding import REPLACEMENT
from tokentape.generation.history.spelling import spell_token
from tokentape.generation.hooks.forward_positions import RECOMPUTED
from tokentape.generation.hooks.layers import find_layer
from tokentape.generation.introspection.activation_statistics import (
    ActivationSpan,
    observation_events,
)
from tokentape.generation.introspection.activations import ActivationMonitor
from tokentape.generation.introspection.attention import attention_row
from tokentape.generation.introspection.logit_lens import layer_logits
from tokentape.generation.introspection.recompute import recompute
from tokentape.generation.introspection.statistics import round_floats
from tokentape.generation.introspection.weights import WeightInspector
from tokentape.generation.models.loading import LoadedModel
from tokentape.recorder.events import ActivationObserved
from tokentape.recorder.plain_values import plain_number

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
class ObservedConversation:
    """Access to the current conversation: its ids so far, its turn, and its monitor, if any."""

    ids: Callable[[], Sequence[int]]
    turn: Callable[[], int]
    monitor: Callable[[], ActivationMonitor | None]


class BoundGenerator(Protocol):
    """A generator whose conversation an inspector sees."""

    conversation: Any

    @property
    def turn(self) -> int:
        """The number of the last turn."""

    @property
    def monitor(self) -> ActivationMonitor | None:
        """The monitor of activations, if any."""


class Inspector:
    """Reads weights at any time, and activations of the conversation that it is bound to."""

    def __init__(self, lm: LoadedModel) -> None:
        self.model = lm.model
        self.weights = WeightInspector(lm.model)
        self._tokenizer = lm.tokenizer
        self._conversation: ObservedConversation | None = None
        self._generator: weakref.ref[BoundGenerator] | None = None
        self._events: list[ActivationObserved] = []

    def bind(
        self,
        *,
        ids: Callable[[], Sequence[int]],
        turn: Callable[[], int],
        monitor: Callable[[], ActivationMonitor | None] = lambda: None,
    ) -> None:
        """Bind the inspector to a conversation."""
        self._conversation = ObservedConversation(ids=ids, turn=turn, monitor=monitor)

    def bind_to(self, generator: BoundGenerator) -> None:
        """Bind the inspector to the conversation of a generator, as long as that exists."""
        if self._generator is not None and self._generator() is generator:
            return
        self._generator = weakref.ref(generator, lambda _: self.unbind())
        alive = weakref.proxy(generator)
        self.bind(
            ids=lambda: alive.conversation.ids,
            turn=lambda: max(1, alive.turn),
            monitor=lambda: alive.monitor,
        )

    def unbind(self) -> None:
        """End the binding to a conversation."""
        self._conversation, self._generator = None, None

    def unbind_from(self, generator: BoundGenerator) -> None:
        """End the binding to the conversation of a generator, unless it is to another one."""
        if self._generator is not None and self._generator() is generator:
            self.unbind()

    def take_events(self) -> list[ActivationObserved]:
        """Return the events of recomputed activations since the last call.

        Call it after a tool has returned, in the thread that records: tools run in other threads.
        """
        events, self._events = self._events, []
        return events

    def get_activation_statistics(
        self,
        layer_name: str | int | Sequence[str | int],
        compact: bool = False,
        recompute: bool = False,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Return statistics of one layer's output, or a list of them for a list of names.

        They cover the latest span that was computed for the layer: `source`, `positions`, and
        `positions_covered`, the number of these that were computed. Cached tokens are not computed:
        `recompute` forwards the whole conversation again, and `take_events` then returns the event.
        Raise ToolError if nothing was computed.
        """
        conversation = self._bound()
        names = [layer_name] if isinstance(layer_name, str | int) else list(layer_name)
        if len(names) > _LAYERS_MAX:
            raise ToolError(f"{len(names)} layers are too many: at most {_LAYERS_MAX}")
        layers = [find_layer(self.model, name)[0] for name in names]
        spans = (
            self._recomputed(layers, conversation)
            if recompute
            else _observed_spans(layers, conversation)
        )
        found = [_summary(spans[layer], compact=compact) for layer in layers]
        return found[0] if isinstance(layer_name, str | int) else found

    def get_attention_patterns(
        self, layer: str | int, head: int | None, *, position: int, top: int
    ) -> dict[str, Any]:
        """Return the largest attention weights of a position: of a head, or the mean of all."""
        conversation = self._bound()
        ids = tuple(conversation.ids())
        name, index, rows = attention_row(
            self.model, ids, layer, position=position, turn=conversation.turn()
        )
        heads = rows.shape[0]
        if head is not None and (isinstance(head, bool) or not 0 <= int(head) < heads):
            raise ToolError(f"there is no head {head!r}: {name} has {heads}, from 0 to {heads - 1}")
        row = rows.mean(dim=0) if head is None else rows[int(head)]
        first = index + 1 - row.numel()
        best = row.topk(min(_check_top(top), row.numel()))
        return {
            "layer": name,
            "head": "mean of all" if head is None else int(head),
            "position": index,
            "kernel": "eager",
            "entropy": round_floats(_entropy(row), _COMPACT_DIGITS),
            "on_itself": round_floats(row[-1].item(), _COMPACT_DIGITS),
            "on_first_key": round_floats(row[0].item(), _COMPACT_DIGITS),
            "top": [
                {
                    "position": first + key,
                    "token": self._text(ids[first + key]),
                    "weight": round_floats(weight, _COMPACT_DIGITS),
                }
                for key, weight in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ],
            "entropy_by_head": [round_floats(_entropy(each), _COMPACT_DIGITS) for each in rows],
        }

    def get_logit_lens(
        self, layers: str | int | Sequence[str | int], *, position: int, top: int
    ) -> dict[str, Any]:
        """Return the most likely next tokens after a position, as each layer predicts them."""
        conversation = self._bound()
        # A model may give a single name in place of a list.
        layers = [layers] if isinstance(layers, str | int) else layers
        if not layers or len(layers) > _LAYERS_MAX:
            raise ToolError(f"give 1 to {_LAYERS_MAX} layers, not {len(layers)}")
        ids = tuple(conversation.ids())
        index, by_layer = layer_logits(
            self.model, ids, layers, position=position, turn=conversation.turn()
        )
        return {
            "position": index,
            "after": self._text(ids[index]),
            "layers": [
                {"layer": name, "top": self._likeliest(logits, _check_top(top))}
                for name, logits in by_layer.items()
            ],
        }

    def _bound(self) -> ObservedConversation:
        if self._conversation is None:
            raise ToolError(
                "there is no conversation: activations are available during an investigation only"
            )
        return self._conversation

    def _recomputed(
        self, layers: Sequence[str], conversation: ObservedConversation
    ) -> dict[str, ActivationSpan]:
        observer = ActivationMonitor(
            self.model, layers, full=True, events=False, sources=(RECOMPUTED,)
        )
        recompute(
            self.model, tuple(conversation.ids()), turn=conversation.turn(), observer=observer
        )
        spans = {layer: observer.latest(layer) for layer in layers}
        found = {layer: span for layer, span in spans.items() if span is not None}
        self._events += observation_events(found.values(), full=False)
        missing = [layer for layer in layers if layer not in found]
        if missing:
            raise ToolError(f"{missing[0]} has no output that can be measured, or was not run")
        return found

    def _likeliest(self, logits: torch.Tensor, top: int) -> list[dict[str, Any]]:
        best = logits.softmax(dim=-1).topk(min(top, logits.numel()))
        return [
            {"token": self._text(token), "probability": round_floats(share, _COMPACT_DIGITS)}
            for token, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _text(self, token_id: int) -> str:
        text = str(self._tokenizer.decode([token_id]))
        return spell_token(self._tokenizer, token_id) if REPLACEMENT in text else text


def _observed_spans(
    layers: Sequence[str], conversation: ObservedConversation
) -> dict[str, ActivationSpan]:
    monitor = conversation.monitor()
    found = {}
    for layer in layers:
        span = monitor.latest(layer) if monitor is not None else None
        if span is None:
            raise ToolError(
                f"no activations of {layer} were observed, and cached tokens are not computed: "
                "use recompute=True"
            )
        found[layer] = span
    return found


def compact_activations(statistics: dict[str, Any]) -> dict[str, Any]:
    """Return the compact statistics among full ones, to four digits."""
    names = ("name", "source", "positions", "positions_covered", *COMPACT_ACTIVATIONS)
    return {
        name: round_floats(value, _COMPACT_DIGITS)
        for name, value in statistics.items()
        if name in names
    }


def _summary(span: ActivationSpan, *, compact: bool) -> dict[str, Any]:
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
    """Return the entropy of attention weights, in nats."""
    return float(torch.special.entr(row).sum())


def _check_top(top: int) -> int:
    top = plain_number(top)
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= _TOP_MAX:
        raise ToolError(f"top must be an integer from 1 to {_TOP_MAX}, not {top!r}")
    return top
