"""A small document of kind "run", made by hand."""

import base64
from typing import Any

import numpy as np

_COLUMNS = {
    "turn": "i4",
    "step": "i4",
    "position": "i4",
    "token_id": "i4",
    "logprob": "f4",
    "logprob_processed": "f4",
    "entropy": "f4",
    "top_gap": "f4",
    "duration_us": "i4",
    "forced": "u1",
    "top_ids": "i4",
    "top_logprobs": "f4",
    "top_processed": "f4",
    "top_removed": "u1",
}
_TOP = 3


def made_document(
    texts: tuple[str, ...] = ("The", " norm", " of", " layer", " 3", ".\n"), *, turns: int = 2
) -> dict[str, Any]:
    """Return the document of a run whose turns have a tool call each and reply with these texts."""
    count = turns * len(texts)
    return {
        "format": "tokentape-view",
        "version": 1,
        "kind": "run",
        "run": _run(),
        "vocabulary": {"ids": list(range(len(texts))), "texts": list(texts)},
        "tokens": _tokens(count, len(texts)),
        "turns": [_turn(index, texts) for index in range(turns)],
        "pending": {"parts": [], "calls": []},
        "cache": {
            "system_tokens": 12,
            "prompt_tokens_computed": 40,
            "prompt_tokens_without_reuse": 120,
            "times_fewer": 3.0,
            "prefill_us": 90_000,
            "prefill_us_without_reuse": None,
            "estimates": [],
        },
        "highlights": {
            "least_sure_turn": 1,
            "least_sure_token": 2,
            "most_surprising_token": 3,
            "slowest_token": 0,
            "largest_cache_saving_turn": 2,
        },
        "activations": [],
        "interventions": [],
        "lineage": None,
        "verdicts": [],
        "go_on": {
            "fork": ["tokentape", "fork", "run-1", "--store", "sqlite:///it's.db"],
            "retrace": ["tokentape", "retrace", "run-1"],
            "verify": ["tokentape", "verify", "run-1"],
            "import": [],
            "note": "",
        },
        "problems": [],
        "served": None,
    }


def _run() -> dict[str, Any]:
    return {
        "run_id": "run-1",
        "name": "made",
        "model": "tiny",
        "status": "finished",
        "error": None,
        "seed": 7,
        "dtype": "float32",
        "device": "cpu",
        "attention": "sdpa",
        "started_at_us": 1_790_000_000_000_000,
        "duration_us": 4_200_000,
        "where": "a test",
        "tags": [],
        "note": "",
        "redacted": False,
        "last_seq": 30,
        "tokentape_version": "0.2.0",
        "parent": None,
        "facts": [["threads", "1"]],
    }


def _tokens(count: int, per_turn: int) -> dict[str, Any]:
    index = np.arange(count)
    values: dict[str, Any] = {
        "turn": index // per_turn + 1,
        "step": index % per_turn,
        "position": 100 + index,
        "token_id": index % per_turn,
        "logprob": -(index % 5) * 0.7,
        "logprob_processed": -(index % 5) * 0.6,
        "entropy": (index % 7) * 0.5,
        "top_gap": 2.0 / (1 + index % 6),
        "duration_us": 30_000 + index * 100,
        "forced": index * 0,
        "top_ids": (index[:, None] + np.arange(_TOP)) % per_turn,
        "top_logprobs": np.broadcast_to([-0.2, -2.0, -4.0], (count, _TOP)),
        "top_processed": np.broadcast_to([-0.1, -2.3, np.nan], (count, _TOP)),
        "top_removed": np.broadcast_to([0, 0, 2], (count, _TOP)),
    }
    return {
        "first": 0,
        "count": count,
        "top": _TOP,
        "removers": ["", "top_k", "top_p", "min_p", "other", "unknown"],
        "columns": {
            name: {
                "dtype": dtype,
                "width": _TOP if values[name].ndim == 2 else 1,
                "data": base64.b64encode(
                    np.ascontiguousarray(values[name], dtype=f"<{dtype}").tobytes()
                ).decode("ascii"),
            }
            for name, dtype in _COLUMNS.items()
        },
    }


def _turn(index: int, texts: tuple[str, ...]) -> dict[str, Any]:
    first = index * len(texts)
    return {
        "turn": index + 1,
        "first_token": first,
        "tokens": len(texts),
        "status": "finished",
        "shared_with": None,
        "stop_reason": "max_new_tokens",
        "duration_us": 400_000,
        "seed": 70 + index,
        "settings": {"temperature": 0.7, "do_sample": True},
        "inside_model": "",
        "unreplayable": [],
        "surprise_mean": 1.4,
        "entropy_mean": 1.1,
        "rounds": [_round(index, first, texts)],
    }


def _round(index: int, first: int, texts: tuple[str, ...]) -> dict[str, Any]:
    part = {"tool_call_id": None, "injected": False, "message": index}
    return {
        "round": 0,
        "first_token": first,
        "tokens": len(texts),
        "prompt_tokens": 60,
        "parts": [
            part | {"role": "template", "text": "<|im_start|>", "tokens": 1, "injected": True},
            part | {"role": "user", "text": f"Question {index + 1}", "tokens": 4},
        ],
        "history_reason": "",
        "cache": {
            "decision": "partial",
            "reason": "diverged",
            "prompt_tokens": 60,
            "reused_tokens": 40,
            "computed_tokens": 20,
            "cropped_tokens": 3,
            "divergence_index": 40,
            "old_token": {"id": 1, "text": " norm"},
            "new_token": {"id": 2, "text": " of"},
            "divergence_text": "the norm",
            "key_field": None,
        },
        "prefill": {"tokens": 20, "chunks": [20], "duration_us": 45_000},
        "kv_bytes": 100_000,
        "peak_bytes": None,
        "kv_bytes_without": None,
        "pruned": None,
        "calls": [_call()],
        "text": "".join(texts),
        "stop_reason": "max_new_tokens",
        "stop_text": None,
    }


def _call() -> dict[str, Any]:
    return {
        "call_id": "call-1",
        "name": "weight_statistics",
        "arguments": '{"layer": 3}',
        "caller": "model",
        "step": 3,
        "text": "",
        "result": {
            "content": "mean 0.01",
            "content_tokens": 5,
            "payload_bytes": 20,
            "payload_tokens": 9,
            "payload_sha256": "00" * 32,
            "payload": '{"mean": 0.0123456}',
            "payload_note": "",
            "error": None,
            "traceback": None,
            "duration_us": 900,
            "tensors": [],
        },
    }
