"""A server answers its own pages, and refuses every request without its token."""

import json
import re

import pytest

from tests.replay.view_server.conftest import Served

FORBIDDEN = 403


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil.example", "",
     "127.0.0.2", "[::2]", "0.0.0.0", "localhost:99999999"],
)  # fmt: skip
def test_another_host_is_refused_even_with_the_token(shared: Served, host: str) -> None:
    status, _, body = shared.request(f"/?token={shared.access.token}", Host=host)

    assert status == FORBIDDEN
    assert "only as 127.0.0.1 or localhost" in body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:9"])
def test_a_loopback_name_with_any_port_is_answered_as_through_a_tunnel(
    shared: Served, host: str
) -> None:
    assert shared.request("/", Host=host)[0] == 200


@pytest.mark.parametrize("path", ["/", "/run/0001", "/api/runs", "/api/run/0001", "/nothing"])
@pytest.mark.parametrize("given", ["", "?token=", "?token=wrong", "?token=%C3%A9%00"])
def test_without_the_token_everything_is_refused_in_a_sentence(
    shared: Served, path: str, given: str
) -> None:
    status, headers, body = shared.request(path + given, Cookie="")

    assert status == FORBIDDEN
    assert "open the address that `tokentape view --serve` printed" in body
    assert "Set-Cookie" not in headers
    assert shared.access.token not in body


def test_a_cookie_of_another_port_or_value_is_refused(shared: Served) -> None:
    token, port = shared.access.token, shared.server.port
    for cookie in (f"tokentape-{port + 1}={token}", f"tokentape-{port}={token}x", f"token={token}"):
        assert shared.request("/", Cookie=cookie)[0] == FORBIDDEN
    assert shared.request("/", Cookie=f"other=1; tokentape-{port}={token}")[0] == 200


def test_the_page_sets_a_cookie_that_no_script_and_no_other_site_uses(shared: Served) -> None:
    status, headers, body = shared.request(f"/?token={shared.access.token}", Cookie="")

    assert status == 200
    assert headers["Set-Cookie"].endswith("; Path=/; HttpOnly; SameSite=Strict")
    assert shared.access.token not in body


def test_every_answer_is_neither_cached_nor_framed_nor_shared(shared: Served) -> None:
    for path, csp in (("/", "connect-src 'self'"), ("/api/runs", "default-src 'none'")):
        _, headers, _ = shared.request(path)

        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert csp in headers["Content-Security-Policy"]
        assert not [name for name in headers if name.startswith("Access-Control")]


def test_the_policy_of_the_header_is_that_of_the_page(shared: Served) -> None:
    _, headers, body = shared.request("/run/0001")
    of_page = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', body)

    assert of_page is not None
    assert headers["Content-Security-Policy"].startswith(of_page[1].replace("&#39;", "'"))


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_reads_nothing_though_its_browser_sends_the_cookie(
    shared: Served, site: str
) -> None:
    status, _, body = shared.request("/api/runs", Sec_Fetch_Site=site)

    assert status == FORBIDDEN
    assert "another site" in body
    assert shared.request("/", Sec_Fetch_Site=site)[0] == 200


@pytest.mark.parametrize("method", ["HEAD", "TRACE", "PUT", "DELETE", "OPTIONS", "CONNECT", "X"])
def test_other_methods_are_refused(shared: Served, method: str) -> None:
    status, headers, _ = shared.request("/", method=method)

    assert (status, headers["Allow"]) == (405, "GET, POST")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": ""}, 415),
    ],
)
def test_only_json_of_an_own_page_starts_something(
    shared: Served, headers: dict[str, str], status: int
) -> None:
    assert shared.post("/api/fork", {"run_id": "0001"}, **headers)[0] == status


def test_nothing_else_is_posted_to(shared: Served) -> None:
    for path in ("/", "/api/runs", "/api/run/0001", "/api/forks", "/run/0001"):
        assert shared.post(path, {})[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/run/..%2f..%2fetc%2fpasswd", "/run/../..", "//evil.example/run/1",
        "/static/view.css", "/run/", "/run/a/b", "/run/%00", "/run/<script>", "/run/a%0d%0aX:%20y",
        "/api/", "/api/run/", "/api/run/0001/payload/../../x", "/api/run/0001/payload/xyz", "/api",
    ],
)  # fmt: skip
def test_a_path_leads_to_no_file(shared: Served, path: str) -> None:
    status, _, body = shared.request(path)

    assert status == 404
    assert "root:" not in body


@pytest.mark.parametrize(
    "run_id", ["nope", "%3Cimg%20src=x%3E", "%FF%FE", "..", "'%20OR%201=1", "%25"]
)
def test_the_document_of_an_unknown_run_is_a_sentence(shared: Served, run_id: str) -> None:
    status, headers, body = shared.request(f"/api/run/{run_id}")

    assert status in (404, 422)
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body)["error"]
    assert shared.lines == []
