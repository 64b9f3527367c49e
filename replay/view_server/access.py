"""Which requests a server answers: those under a loopback name that carry its token.

A page of another site can make a browser send requests to this machine. The name check stops DNS
rebinding, where the other site's own name leads here; the token stops everything else, and other
users of the machine. The token comes once in the address. Then it is a cookie: `HttpOnly`, so that
no script reads it, and `SameSite=Strict`, so that no other site sends it. A header would need a
script that holds the token, and links, reloads and new tabs would lose it. Browsers send a cookie
to every port of a host: a stranger's server on 127.0.0.1 that is opened in the same browser can
read it.
"""

import hmac
import re
import secrets
from dataclasses import dataclass, field
from http import HTTPStatus

from tokentape.replay.view_server.messages import JSON, RefusedError, Request

_TOKEN_BYTES = 32
_LOOPBACK = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)


def is_loopback_name(host: str) -> bool:
    """Return whether a header `Host` names this machine as only programs on it can."""
    return _LOOPBACK.fullmatch(host) is not None


def new_token() -> str:
    """Return a token of 256 random bits for an address."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAccess:
    """The token of a server, and the checks that a request has to pass."""

    token: str = field(default_factory=new_token, repr=False)
    port: int

    @property
    def cookie(self) -> str:
        """The `Set-Cookie` header; servers on several ports have cookies of their own."""
        return f"{self._cookie_name}={self.token}; Path=/; HttpOnly; SameSite=Strict"

    def check(self, request: Request) -> None:
        """Raise RefusedError for a request that is not answered, in this order.

        The name of the host is no loopback name; the method is neither GET nor POST; the token is
        missing or wrong; another site asks for data, or posts.
        """
        host = request.headers.get("host", "")
        if not is_loopback_name(host):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "this server answers only as 127.0.0.1 or localhost, and the request names "
                "another host",
            )
        if request.method not in ("GET", "POST"):
            raise RefusedError(
                HTTPStatus.METHOD_NOT_ALLOWED, "this server only answers GET", Allow="GET, POST"
            )
        if not self._has_token(request):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "the token of this server is missing or is not its own; open the address that "
                "`tokentape view --serve` printed when it started",
            )
        self._check_origin(request, host)

    def _check_origin(self, request: Request, host: str) -> None:
        """Raise RefusedError for what another site asks for, except for a whole page.

        Browsers say it in `Sec-Fetch-Site`, and in `Origin` where they post.
        """
        site = request.headers.get("sec-fetch-site", "same-origin")
        if request.path.startswith("/api/") and site not in ("same-origin", "none"):
            raise RefusedError(HTTPStatus.FORBIDDEN, "another site may not read from this server")
        if request.method != "POST":
            return
        if request.headers.get("origin", "").lower() != f"http://{host}".lower():
            raise RefusedError(
                HTTPStatus.FORBIDDEN, "only a page of this server may start something here"
            )
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be {JSON}")

    @property
    def _cookie_name(self) -> str:
        return f"tokentape-{self.port}"

    def _has_token(self, request: Request) -> bool:
        """Return whether the token is in the address or a cookie; a wrong one in one does not
        matter if the other is right."""
        given = [*request.query.get("token", ())]
        for each in request.headers.get("cookie", "").split(";"):
            name, _, value = each.strip().partition("=")
            if name == self._cookie_name:
                given.append(value)
        token = self.token.encode()
        # A list: every value is compared, however many are right.
        same = [hmac.compare_digest(each.encode(errors="replace"), token) for each in given]
        return any(same)
