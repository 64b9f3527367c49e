"""The process that records a run: named so that another can tell whether it is still there."""

import os
import socket
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = "/proc/self/ns/pid"


class ProcessState(StrEnum):
    """Whether the process that recorded a run still runs, as seen from this machine."""

    ALIVE = "alive"
    GONE = "gone"
    """It ended, or its machine was started again."""
    UNKNOWN = "unknown"
    """It ran on another machine or in another container, or the recording does not name it."""


def this_process() -> dict[str, Any]:
    """Return what identifies this process: host, process id and start.

    `started` tells it from a later process with the same id. `boot` and `namespace` are empty
    outside Linux; two containers of one host differ in their namespace.
    """
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "started": _start_of(pid),
        "boot": _boot_id(),
        "namespace": _namespace(),
    }


def state_of(process: Mapping[str, Any]) -> ProcessState:
    """Return whether a recorded process still runs."""
    if process.get("host") != socket.gethostname() or process.get("namespace") != _namespace():
        return ProcessState.UNKNOWN
    if process.get("boot") != _boot_id():
        return ProcessState.GONE
    pid = process.get("pid")
    try:
        if not isinstance(pid, int) or not psutil.pid_exists(pid):
            return ProcessState.GONE
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return ProcessState.GONE
        is_same = _start_of(pid) == process.get("started")
    except psutil.NoSuchProcess:
        return ProcessState.GONE
    except (psutil.Error, OSError):
        return ProcessState.UNKNOWN
    return ProcessState.ALIVE if is_same else ProcessState.GONE


def _start_of(pid: int) -> int:
    """Return when a process started: clock ticks since boot on Linux, elsewhere seconds."""
    if Path("/proc/self/stat").exists():
        try:
            # proc(5): the name in parentheses may have spaces; the start is the 22nd field.
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except FileNotFoundError:
            raise psutil.NoSuchProcess(pid) from None
        return int(stat.rpartition(b")")[2].split()[19])
    return round(psutil.Process(pid).create_time())


def _boot_id() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink(_NAMESPACE)
    except OSError:
        return ""
