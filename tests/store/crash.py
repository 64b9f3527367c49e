"""Runs made by hand, and processes that record them until they are killed.

`python -m tests.store.crash` imports the store once and forks a process for each line that it is
sent, so that hundreds can be started in a minute. A process reports each event in a pipe after it
was recorded: all that is reported must be in the store.
"""

import hashlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokentape.recorder import Record, Recorder
from tokentape.recorder.codec import encode
from tokentape.recorder.events import (
    CacheDecided,
    Event,
    MessageAdded,
    PrefillCompleted,
    RunStarted,
    SystemPromptCached,
    TokenSampled,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
    ids_sha256,
)
from tokentape.recorder.numbers import to_half
from tokentape.recorder.seals import canonical_bytes
from tokentape.store import DatabaseStore, SealingLog, open_store

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Blob:
    sha256: str
    payload: bytes


def started(name: str, **changes: Any) -> RunStarted:
    values = {
        "name": name,
        "seed": 7,
        "model": "by hand",
        "weights_sha256": "00" * 32,
        "tokenizer_sha256": "11" * 32,
        "template_sha256": "",
        "generation_config": {"temperature": 0.5},
        "sampler_sha256": "22" * 32,
        "dtype": "float32",
        "device": "cpu",
        "attention_kernel": "sdpa",
        "threads": 1,
        "context_tokens": 4096,
        "environment": {"torch": "none"},
        "settings": {},
    }
    return RunStarted(**values | changes)


class Script:
    """A conversation without a model, whose events and blobs fit together."""

    def __init__(self, name: str, seed: int, *, tokens: int = 6) -> None:
        self._name = name
        self._random = random.Random(seed)
        self._tokens = tokens
        self._ids: list[int] = []
        self._chars = 0

    def turns(self, count: int) -> Iterator[Event | Blob]:
        text = "You are kind."
        self._ids, self._chars = self._some_ids(5), len(text)
        yield started(self._name)
        yield SystemPromptCached(
            content=text,
            text=text,
            ids=tuple(self._ids),
            sha256=ids_sha256(self._ids),
            chunks=(5,),
            duration_us=1_500,
            kv_bytes=10,
        )
        for turn in range(1, count + 1):
            yield from self._turn(turn)

    def _turn(self, turn: int) -> Iterator[Event | Blob]:
        cached = len(self._ids) - (turn > 1)
        yield self._message("user", f"What of layer {turn}? ✓")
        if turn % 2 == 0:
            yield from self._tool(f"call-{turn}")
        prompt = len(self._ids)
        yield TurnStarted(
            turn=turn,
            prompt_tokens=prompt,
            kept_tokens=prompt,
            kept_chars=self._chars,
            added_ids=(),
            added_text="",
            history_reason="",
            seed=turn,
            sampling={"do_sample": True},
        )
        yield CacheDecided(
            turn=turn,
            decision="hit",
            reason="covered",
            prompt_tokens=prompt,
            reused_tokens=cached,
            computed_tokens=prompt - cached,
            cached_tokens=cached,
            cropped_tokens=0,
        )
        yield PrefillCompleted(
            turn=turn, chunks=(prompt - cached,), duration_us=2_000, kv_bytes=100, peak_bytes=1000
        )
        for step in range(self._tokens):
            yield self._token(turn, step, prompt)
        yield TurnFinished(
            turn=turn,
            stop_reason="max_new_tokens",
            generated_tokens=self._tokens,
            text="So and so.",
            stop_text="",
            generator_sha256="33" * 32,
            duration_us=7_250,
        )
        self._chars += len("So and so.")

    def _some_ids(self, count: int) -> list[int]:
        return [self._random.randrange(50_000) for _ in range(count)]

    def _message(self, role: str, text: str) -> MessageAdded:
        ids = self._some_ids(4)
        self._ids += ids
        self._chars += len(text)
        return MessageAdded(role=role, content=text, text=text, ids=tuple(ids))

    def _tool(self, call_id: str) -> Iterator[Event | Blob]:
        payload = self._random.randbytes(self._random.choice((0, 100, 5_000, 60_000)))
        sha256 = hashlib.sha256(payload).hexdigest()
        yield ToolCalled(call_id=call_id, name="look", arguments={"layer": call_id, "deep": [1, 2]})
        yield Blob(sha256, payload)
        yield ToolReturned(
            call_id=call_id,
            name="look",
            content="all is well",
            content_tokens=3,
            payload_sha256=sha256,
            payload_bytes=len(payload),
            payload_tokens=9,
            tensors=({"name": "w", "shape": [2, 3], "dtype": "float32", "sha256": "44" * 32},),
            error=None,
            duration_us=125,
        )
        yield self._message("tool", "all is well")

    def _token(self, turn: int, step: int, prompt: int) -> TokenSampled:
        (token_id,) = self._some_ids(1)
        self._ids.append(token_id)
        entropy, gap = to_half(self._random.uniform(0, 9), self._random.uniform(0, 9))
        count = self._random.choice((0, 5))
        return TokenSampled(
            turn=turn,
            step=step,
            position=prompt + step,
            token_id=token_id,
            logprob=-self._random.randrange(4096) / 512,
            logprob_processed=-self._random.randrange(4096) / 512,
            entropy=entropy,
            top_gap=gap,
            duration_us=self._random.randrange(100_000),
            top_ids=tuple(self._some_ids(count)),
            top_logprobs=to_half(*(-self._random.uniform(0, 9) for _ in range(count))),
        )


def record_script(store: DatabaseStore, name: str, *, turns: int = 2, seed: int = 0) -> str:
    """Record a run that finishes, and say its id."""
    with Recorder(store) as recorder:
        for item in Script(name, seed).turns(turns):
            record_item(recorder, item)
    return recorder.run_id


def record_item(recorder: Recorder, item: Event | Blob) -> str:
    """Record an item, and return the line that acknowledges it."""
    if isinstance(item, Blob):
        recorder.put_blob(item.sha256, item.payload)
        return f"blob {item.sha256}"
    envelope = recorder.record(item)
    return f"event {envelope.seq} {digest(encode(envelope))}"


def digest(record: Record) -> str:
    rest = f"{record.turn} {record.seal}".encode()
    return hashlib.sha256(canonical_bytes(record) + rest).hexdigest()[:16]


@dataclass
class Said:
    """What a process had said by the time it was gone."""

    run_id: str = ""
    events: list[str] = field(default_factory=list)
    durable: int = 0
    blobs: list[str] = field(default_factory=list)
    opened: bool = False
    finished: bool = False
    error: str = ""

    def add(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "event":
            seq, event_digest = rest.split()
            assert int(seq) == len(self.events)
            self.events.append(event_digest)
        elif word == "durable":
            self.durable = len(self.events)
        elif word == "blob":
            self.blobs.append(rest)
        elif word == "run":
            self.opened, self.run_id = True, rest
        elif word == "finished":
            self.finished = True
        else:
            self.error += line


class Process:
    """A recording process, seen from outside."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self.said = Said()
        self._pipe = pipe
        self._rest = b""

    def follow(self, *, seconds: float, events: int | None = None) -> None:
        """Read its output until it has ended, has reported so many events, or time is up."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._has(events):
            ready, _, _ = select.select([self._pipe], [], [], left)
            if not ready or not self._read():
                return

    def kill(self) -> Said:
        # It may have ended by itself, with an error that it has said.
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> Said:
        """Wait until it has ended, and return what it reported."""
        while self._read():
            pass
        os.close(self._pipe)
        return self.said

    def _has(self, events: int | None) -> bool:
        return events is not None and len(self.said.events) >= events

    def _read(self) -> bool:
        chunk = os.read(self._pipe, 1 << 16)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self.said.add(line.decode())
        return bool(chunk)


class Processes:
    """Starts recording processes; see the module."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._forker = subprocess.Popen(
            [sys.executable, "-m", "tests.store.crash"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, where: str | Path, name: str, **settings: Any) -> Process:
        """`turns` and `tokens` say how long a run it records, `run_id` which.

        `sealed` is the folder that it seals each turn into. `environment` has variables that it
        sets, `stderr` is a file for what it writes there, and once the file `until` exists, it
        ends the run after the turn.
        """
        self._count += 1
        pipe = self._folder / f"pipe-{self._count}"
        os.mkfifo(pipe)
        order = {"where": str(where), "name": name, "pipe": str(pipe), "seed": self._count}
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        self._forker.stdin.write(json.dumps(order | settings) + "\n")
        self._forker.stdin.flush()
        pid = int(self._forker.stdout.readline())
        process = Process(pid, os.open(pipe, os.O_RDONLY))
        pipe.unlink()
        return process

    def close(self) -> None:
        assert self._forker.stdin is not None
        assert self._forker.stdout is not None
        self._forker.stdin.close()
        self._forker.wait()
        self._forker.stdout.close()


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    started_here = Processes(folder)
    try:
        yield started_here
    finally:
        started_here.close()


def serve() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _obey(json.loads(line))
        print(pid, flush=True)


def _obey(order: dict[str, Any]) -> None:
    pipe = os.open(order["pipe"], os.O_WRONLY)

    def say(line: str) -> None:
        os.write(pipe, f"{line}\n".encode())

    if "stderr" in order:
        os.dup2(os.open(order["stderr"], os.O_WRONLY | os.O_CREAT), 2)
    os.environ.update(order.get("environment", {}))
    until = Path(order.get("until", "/nowhere"))
    try:
        with open_store(order["where"]) as store:
            assert isinstance(store, DatabaseStore)
            folder = order.get("sealed")
            log = store if folder is None else SealingLog(store, folder)
            with Recorder(log, run_id=order.get("run_id")) as recorder:
                say(f"run {recorder.run_id}")
                script = Script(order["name"], order["seed"], tokens=order.get("tokens", 6))
                for item in script.turns(order.get("turns", 1_000_000)):
                    say(record_item(recorder, item))
                    if not isinstance(item, Blob) and item.traits.durable:
                        say("durable")
                    if isinstance(item, TurnFinished) and until.exists():
                        break
        say("finished")
    except BaseException as error:
        say(f"error {type(error).__name__}: {' '.join(str(error).split())}")
    finally:
        os._exit(0)


if __name__ == "__main__":
    serve()
