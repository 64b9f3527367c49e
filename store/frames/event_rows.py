"""Rows of messages, interventions, activations and texts of tokens, folded from events."""

from collections.abc import Iterator

from tokentape.store.frames.columns import ACTIVATIONS_DF
from tokentape.store.frames.rows import EventRow, Row, folding

MESSAGE_KINDS = (
    "SystemPromptCached",
    "MessageAdded",
    "ToolReturned",
    "TurnStarted",
    "TurnFinished",
    "RunResumed",
)


@folding
def message_rows(events: Iterator[EventRow]) -> list[Row]:
    """Return a row for each message of the conversation, also of one that was pruned later."""
    rows: list[Row] = []
    tools: dict[tuple[str, str], str] = {}
    run_id, begun = "", 0
    for event in events:
        body = event.body
        if event.run_id != run_id:
            run_id, begun = event.run_id, len(rows)
        if event.kind == "ToolReturned":
            tools[run_id, body["call_id"]] = body["name"]
        elif event.kind == "RunResumed":
            # It records the messages again that no turn has begun with.
            rows[begun:] = [row for row in rows[begun:] if row["kind"] != "MessageAdded"]
        elif event.kind == "SystemPromptCached":
            if body["content"]:
                rows.append(_message(event, "system", body["content"], len(body["ids"])))
        elif event.kind == "MessageAdded":
            call_id = body["tool_call_id"]
            called = {"tool_call_id": call_id, "tool": tools.get((run_id, call_id))}
            said = _message(event, body["role"], body["content"], len(body["ids"]) or None)
            rows.append(said | called)
        elif event.kind == "TurnFinished":
            rows.append(_message(event, "assistant", body["text"], body["generated_tokens"]))
        if event.kind in ("TurnStarted", "TurnFinished"):
            begun = len(rows)
    return rows


def _message(event: EventRow, role: str, content: str, tokens: int | None) -> Row:
    return _envelope(event) | {
        "kind": event.kind,
        "role": role,
        "content": content,
        "tokens": tokens,
    }


def _envelope(event: EventRow) -> Row:
    return {
        "run_id": event.run_id,
        "seq": event.seq,
        "at": event.at_us,
        "turn": event.turn,
    }


INTERVENTION_KINDS = (
    "InterventionRequested",
    "InterventionWithdrawn",
    "InterventionApplied",
    "InterventionRemoved",
)


_DESCRIBED = ("kind", "coefficient", "positions", "tensor_sha256", "tensor_start")


@folding
def intervention_rows(events: Iterator[EventRow]) -> list[Row]:
    """Return a row for each event of an intervention; an applied one has its end."""
    rows: list[Row] = []
    applied: dict[tuple[str, str], Row] = {}
    for event in events:
        body, name = event.body, event.body["name"]
        row = _envelope(event) | {
            "event": event.kind.removeprefix("Intervention").lower(),
            "name": name,
        }
        if event.kind in ("InterventionRequested", "InterventionApplied"):
            row |= {field: body[field] for field in _DESCRIBED}
            row["layers"] = ", ".join(body["layers"])
        if event.kind == "InterventionApplied":
            row["from_position"] = body["position"]
            applied[event.run_id, name] = row
        elif event.kind == "InterventionRemoved":
            end = {"to_turn": event.turn, "to_position": body["position"]}
            row |= end
            applied.pop((event.run_id, name), row).update(end)
        rows.append(row)
    return rows


ACTIVATION_KINDS = ("ActivationObserved",)


@folding
def activation_rows(events: Iterator[EventRow]) -> list[Row]:
    """Return a row for each layer of each observation."""
    ranged = {"source": "source", "from_position": "start", "to_position": "end"}
    ranged["positions_covered"] = "positions_covered"
    numbers = set(ACTIVATIONS_DF.names) - {"run_id", "seq", "at", "turn", "layer", *ranged}
    rows: list[Row] = []
    for event in events:
        body = event.body
        shared = _envelope(event) | {name: body[field] for name, field in ranged.items()}
        for layer, statistics in body["statistics"].items():
            found = {name: statistics[name] for name in statistics.keys() & numbers}
            rows.append(shared | {"layer": layer} | found)
    return rows


SPELLING_KINDS = ("TokensSpelled",)


@folding
def text_rows(events: Iterator[EventRow]) -> list[Row]:
    """Return a row for each text of a token of a run; the first of several is the one."""
    texts: dict[tuple[str, int], str] = {}
    for event in events:
        for token_id, text in event.body["texts"].items():
            if not isinstance(text, str):
                raise ValueError(f"the text of token {token_id:.20} is a {type(text).__name__}")
            texts.setdefault((event.run_id, int(token_id)), text)
    return [
        {"run_id": run_id, "token_id": token_id, "text": text}
        for (run_id, token_id), text in texts.items()
    ]
