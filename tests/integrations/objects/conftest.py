"""An S3 server on this machine, and a spy on what is asked of it."""

import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

s3fs = pytest.importorskip("s3fs", reason="needs the extra s3")
moto_server = pytest.importorskip("moto.server", reason="needs moto, of the extra dev")


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The URL of a server that keeps buckets in memory."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file system of the server, which the environment names as users do."""
    settings = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return s3fs.S3FileSystem(use_listings_cache=False)


@pytest.fixture
def bucket(s3: Any) -> str:
    """The URL of a new bucket."""
    name = f"runs-{uuid.uuid4().hex}"
    s3.mkdir(name)
    return f"s3://{name}"


@dataclass
class Requests:
    """The requests of s3fs, in order."""

    made: list[tuple[str, str]] = field(default_factory=list)
    """Each with its method and its key, as `get_object`, `runs/x.tape`."""
    bytes_read: int = 0

    def clear(self) -> None:
        self.made.clear()
        self.bytes_read = 0

    def count(self, method: str) -> int:
        return sum(each == method for each, _ in self.made)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    seen = Requests()
    call = s3fs.S3FileSystem._call_s3

    async def spy(self: Any, method: str, *args: Any, **given: Any) -> Any:
        seen.made.append((method, given.get("Key", given.get("Prefix", ""))))
        answer = await call(self, method, *args, **given)
        if method == "get_object":
            seen.bytes_read += answer["ContentLength"]
        return answer

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", spy)
    return seen
