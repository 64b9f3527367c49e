"""A quick check of whether the hub of models can be reached.

The libraries of the hub try again for minutes where no network answers.
"""

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tokentape.generation.errors import ModelError

CONNECT_S = 3.0
"""The longest time that a connection to the hub, or to its proxy, may take."""
_FILES = ("config.json", "adapter_config.json")
_PORTS = {"http": 80, "https": 443}


def needs_cache(name: str, revision: str | None, missing: Callable[[], str]) -> bool:
    """Return whether a model of the hub must be read from this machine's cache: the hub is away.

    Raise ModelError if the hub cannot be reached, or is not to be asked (`HF_HUB_OFFLINE`), and the
    cache does not have the model; `missing` returns the beginning of its message.
    """
    obstacle = _obstacle()
    if obstacle and not in_cache(name, revision):
        raise ModelError(
            f"{missing()}, and {obstacle}: download it where there is a network "
            f"(hf download {name}), or name a file or folder"
        )
    return bool(obstacle)


def in_cache(name: str, revision: str | None = None) -> bool:
    """Return whether the cache of the hub on this machine has the config of a model."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = [try_to_load_from_cache(name, file, revision=revision) for file in _FILES]
    except (OSError, ValueError):  # not a name of the hub
        return False
    return any(isinstance(each, str) for each in found)


def cached_models() -> list[str]:
    """Return the names of the models in the cache of the hub on this machine."""
    from huggingface_hub import constants

    try:
        folders = [each.name for each in Path(constants.HF_HUB_CACHE).iterdir()]
    except OSError:
        return []
    prefix = "models--"
    return [each[len(prefix) :].replace("--", "/") for each in folders if each.startswith(prefix)]


def _obstacle() -> str:
    """Return why the hub cannot be asked; "" if it answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask the hub for it"
    reason = _connection_error(_gateway(constants.ENDPOINT))
    return f"the hub ({constants.ENDPOINT}) cannot be reached ({reason})" if reason else ""


def _gateway(endpoint: str) -> tuple[str, int]:
    """Return the host and port that a request to the hub connects to first."""
    url = urlsplit(endpoint)
    proxy = getproxies().get(url.scheme) or getproxies().get("all")
    if proxy and url.hostname and not proxy_bypass(url.hostname):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return url.hostname or "", url.port or _PORTS.get(url.scheme, 443)


def _connection_error(address: tuple[str, int]) -> str:
    """Return why no connection can be made within `CONNECT_S`; "" if one can be made."""
    found: list[str] = []

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=CONNECT_S).close()
            found.append("")
        except (OSError, ValueError, OverflowError) as error:
            found.append(getattr(error, "strerror", None) or str(error))

    # The look-up of a name has no limit of its own.
    thread = threading.Thread(target=connect, name="hub-access", daemon=True)
    thread.start()
    thread.join(CONNECT_S + 0.5)
    return found[0] if found else f"no answer in {CONNECT_S:g} s"
