"""Which requests the endpoint answers: those with its key, under a name of this machine.

On loopback, a page of another site can make a browser send requests to this machine. The check of
the host's name stops DNS rebinding, where the other site's own name leads here; a request that
names another origin is refused, and no header allows other sites to read a response.
"""

import hmac
import ipaddress
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import tokentape as tt
from tokentape.endpoint.errors import ApiError
from tokentape.recorder.paths import expand_path
from tokentape.replay.view_server.access import is_loopback_name

KEY_VARIABLE = "TOKENTAPE_API_KEY"
_KEY_BYTES = 32
_KEY_CHARS_MIN = 16
_KEY_CHARS_MAX = 4096
OPEN_PATHS = frozenset({"/health"})
"""They tell nothing, and need no key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointKey:
    """The key that clients send."""

    key: str = field(repr=False)
    is_new: bool = False
    """Whether it was made for this server, and has to be shown."""

    def is_in(self, authorization: str) -> bool:
        """Return whether a header `Authorization` has the key, in a time that tells nothing."""
        scheme, _, given = authorization.partition(" ")
        same = hmac.compare_digest(given.strip().encode(errors="replace"), self.key.encode())
        return same and scheme.lower() == "bearer"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointAccess:
    """The checks that a request has to pass, by its headers in lower case."""

    key: EndpointKey | None
    on_loopback: bool

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Raise ApiError for a request that is not answered."""
        host = headers.get("host", "")
        if self.on_loopback and not is_loopback_name(host):
            raise ApiError(
                HTTPStatus.FORBIDDEN,
                "this server answers only as 127.0.0.1 or localhost, and the request names "
                "another host",
                code="wrong_host",
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{host}".lower():
            raise ApiError(
                HTTPStatus.FORBIDDEN, "pages of other sites are not answered", code="wrong_origin"
            )
        if self.key is None or path in OPEN_PATHS:
            return
        given = headers.get("authorization")
        if given is None or not self.key.is_in(given):
            fault = "no key" if given is None else "a wrong key"
            raise ApiError(
                HTTPStatus.UNAUTHORIZED,
                f"the request has {fault}: send that of the server as `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def is_loopback(host: str) -> bool:
    """Return whether only programs of this machine can connect to an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_key(file: Path | None, *, on_loopback: bool) -> EndpointKey | None:
    """Return the key of a file, else that of `TOKENTAPE_API_KEY`, else a new one.

    On loopback a server without a key needs none. Raise TokentapeError for a file that cannot be
    read, and for a key that is too short for a network, or that a header cannot carry.
    """
    if file is not None:
        where = str(file)
        try:
            given = expand_path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
            raise tt.TokentapeError(f"cannot read the key of {file}: {reason}") from None
    else:
        where = KEY_VARIABLE
        given = os.environ.get(KEY_VARIABLE, "").strip()
        if not given:
            new = EndpointKey(key=secrets.token_urlsafe(_KEY_BYTES), is_new=True)
            return None if on_loopback else new
    if not (given.isascii() and given.isprintable()) or " " in given or not given:
        raise tt.TokentapeError(f"the key of {where} must be one word of printable ASCII")
    if len(given) > _KEY_CHARS_MAX:
        raise tt.TokentapeError(f"the key of {where} has more than {_KEY_CHARS_MAX:,} characters")
    if not on_loopback and len(given) < _KEY_CHARS_MIN:
        raise tt.TokentapeError(
            f"the key of {where} has {len(given)} characters: on a network, guessing it must be "
            f"hopeless, so give it at least {_KEY_CHARS_MIN}"
        )
    return EndpointKey(key=given)
