"""Reading documents in tests, as the page reads them."""

import base64
import json
from typing import Any

import numpy as np


def through_json(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document as the page gets it."""
    read: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
    return read


def unpacked(tokens: dict[str, Any]) -> dict[str, Any]:
    """Return the packed columns of tokens as arrays by name."""
    found = {}
    for name, column in tokens["columns"].items():
        values = np.frombuffer(base64.b64decode(column["data"]), "<" + column["dtype"])
        is_wide = name in ("top_ids", "top_logprobs", "top_processed", "top_removed")
        assert column["width"] == (tokens["top"] if is_wide else 1)
        found[name] = values.reshape(
            (tokens["count"], tokens["top"]) if is_wide else tokens["count"]
        )
    return found
