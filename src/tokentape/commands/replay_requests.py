"""The replaying process of the pytest plugin.

Each request is a JSON object on one line of standard input, and so is its answer on standard
output, with the `id` of the request and perhaps an `error`. The process ends with its input.
"""

import json
import os
import traceback
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

import tokentape as tt
from tokentape.screen import err

if TYPE_CHECKING:
    from tokentape.replay.tapes.tape_replayer import ReplayRequest, TapeOutcome


def serve_replays() -> None:
    """Answer the requests of the pytest plugin."""
    requests, answers = _own_streams()
    server = Server()
    for line in requests:
        answers.write(json.dumps(server.answer(json.loads(line))).encode() + b"\n")
        try:
            answers.flush()
        except BrokenPipeError:
            return  # pytest has ended


def _own_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Return streams for requests and answers; what libraries print goes to standard error."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


class Server:
    """Answers requests one by one; keeps the last model in memory."""

    def __init__(self) -> None:
        # Stores are slow to import, and other commands import this module.
        from tokentape.replay.tapes.tape_replayer import TapeReplayer

        self._replayer = TapeReplayer()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request, or a one-line `error`."""
        from tokentape.replay.tapes.tape_replayer import ReplayRequest, list_runs

        id_, verb = request.pop("id"), request.pop("do")
        try:
            if verb == "list":
                return {"id": id_, "runs": [asdict(run) for run in list_runs(**request)]}
            if verb == "verify-all":
                requests = [ReplayRequest(**each, mode="verify") for each in request["tapes"]]
                return {"id": id_, "answers": self._verify_all(requests)}
            return {"id": id_, **_as_json(self._replayer.replay(ReplayRequest(**request)))}
        except Exception as error:
            return {"id": id_, "error": _error_text(error)}

    def _verify_all(self, requests: "list[ReplayRequest]") -> list[dict[str, Any]]:
        """Return what the answer to each of several requests is alone."""
        from tokentape.replay.tapes.tape_batch import TapeBatch

        return [
            {"error": _error_text(each)} if isinstance(each, Exception) else _as_json(each)
            for each in TapeBatch(self._replayer).verify(requests)
        ]


def _error_text(error: Exception) -> str:
    """Return an error as one line; write where an unexpected one was raised on standard error."""
    from tokentape.replay.tapes.tape_replayer import one_line

    if isinstance(error, tt.TokentapeError):
        return one_line(str(error))
    err.text("".join(traceback.format_exception(error)))
    return one_line(f"unexpected {type(error).__name__}: {error}")


def _as_json(found: "TapeOutcome") -> dict[str, Any]:
    runs = {str(index): run.to_dict() for index, run in found.runs.items()}
    return {"runs": runs, "updated": found.updated}
