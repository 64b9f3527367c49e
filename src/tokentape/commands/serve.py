"""The command `serve`: OpenAI's chat completions, each of which is recorded."""

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tokentape as tt
from tokentape.commands.investigations import recording_store, resume_hint
from tokentape.commands.options import (
    ModelOption,
    StoreOption,
    load_named_model,
    loads_model,
)
from tokentape.commands.tool_files import options_to_resume
from tokentape.recorder.paths import expand_path
from tokentape.screen import err
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from tokentape.endpoint.access import EndpointKey
    from tokentape.generation.models.loading_settings import LoadingKeywords

_PORT = 8273
"""TAPE on the keys of a telephone: no common server has it."""
_SIZE = re.compile(r"([0-9]{1,12})(|kB|MB|GB)")
_UNITS = {"": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3}

HostOption = Annotated[
    str, typer.Option(help="The address to listen on; one that others can reach needs a key.")
]
EndpointPortOption = Annotated[
    int, typer.Option(min=0, max=65535, help="The port to listen on; 0 is a free one.")
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        parser=expand_path,
        metavar="FILE",
        help="The file with the key that clients send; by default TOKENTAPE_API_KEY, if it is set.",
    ),
]
PlacesOption = Annotated[
    int,
    typer.Option(min=1, max=1024, help="How many replies advance together; further ones wait."),
]
TopLogprobsOption = Annotated[
    int,
    typer.Option(
        min=0, max=1000, help="How many of the likeliest tokens are recorded at each step."
    ),
]
DefaultTokensOption = Annotated[
    int, typer.Option(min=1, help="The most tokens of a reply whose request does not say.")
]
MaxBodyOption = Annotated[
    str, typer.Option(metavar="SIZE", help="The largest request, in bytes or as 10MB.")
]


@loads_model
def serve(
    *,
    model: ModelOption = "smollm2-demo",
    loading: "LoadingKeywords",
    store: StoreOption = DEFAULT_URL,
    host: HostOption = "127.0.0.1",
    port: EndpointPortOption = _PORT,
    api_key_file: KeyFileOption = None,
    batch: PlacesOption = 8,
    top_logprobs: TopLogprobsOption = 5,
    max_new_tokens: DefaultTokensOption = 1024,
    max_body: MaxBodyOption = "10MB",
) -> None:
    """Serve a model as OpenAI's chat completions, and record each conversation as a run.

    Messages that a client sends again are recognised and cost no prefill; what differs forks. Each
    reply is reported in a line. Ctrl-C ends the running replies after their next token: exit code
    130; SIGTERM: 143.
    """
    size = _parsed_size(max_body)
    _check_extra()
    from tokentape.endpoint.access import is_loopback, read_key
    from tokentape.endpoint.http_server import address_of, listen

    on_loopback = is_loopback(host)
    key = read_key(api_key_file, on_loopback=on_loopback)
    with (
        listen(host, port) as listening,
        recording_store(store) as opened,
        resume_hint(store, options_to_resume(loading, None)) as begun,
    ):
        lm = load_named_model(model, loading)
        from tokentape.endpoint.service import EndpointSettings, TurnReports, served_endpoint

        settings = EndpointSettings(
            key=key,
            on_loopback=on_loopback,
            batch=batch,
            top_logprobs=top_logprobs,
            max_new_tokens=max_new_tokens,
            body_bytes_max=size,
        )
        reports = TurnReports(lambda line: err.line(f"tokentape: {line}"))
        try:
            with served_endpoint(lm, opened, listening, settings, reports):
                _announce(address_of(listening, host), lm, opened.where, key)
                # Until a signal.
                threading.Event().wait()
        finally:
            for run_id in reports.interrupted:
                begun(run_id)


def _announce(address: str, lm: "tt.LoadedModel", where: str, key: "EndpointKey | None") -> None:
    err.line(f"tokentape: serving {lm.name} at {address}, recording into {where}; Ctrl-C stops it")
    if key is not None and key.is_new:
        err.line(f"tokentape: the key of this server, which is shown only once: {key.key}")


def _parsed_size(text: str) -> int:
    """Return a number of bytes. Raise BadParameter for a text that is none."""
    found = _SIZE.fullmatch(text)
    size = 0 if found is None else int(found[1]) * _UNITS[found[2]]
    if not size:
        raise typer.BadParameter(f"--max-body {text!r}: give a number of bytes, such as 10MB")
    return size


def _check_extra() -> None:
    """Raise TokentapeError if the libraries of the extra `serve` are not installed."""
    try:
        import pydantic  # noqa: F401
        import regex  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise tt.TokentapeError(
            f'serve needs {error.name}, which is not installed: pip install "tokentape[serve]"'
        ) from None
