"""A process whose forked children record runs without `with`, and end in several ways."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model

Chat = Callable[..., Any]


def _exception(run: tt.Investigation, store: Any) -> None:
    raise ZeroDivisionError("a fault of the script")


def _exit(run: tt.Investigation, store: Any) -> None:
    sys.exit(7)


def _signal_in_a_turn(run: tt.Investigation, store: Any) -> None:
    run.chat("Hi", max_new_tokens=5, callback=lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def _signal_between_turns(run: tt.Investigation, store: Any) -> None:
    os.kill(os.getpid(), signal.SIGHUP)


def _ctrl_c(run: tt.Investigation, store: Any) -> None:
    run.chat("Hi", max_new_tokens=5, callback=lambda *_: signal.raise_signal(signal.SIGINT))


def _store_closed_first(run: tt.Investigation, store: Any) -> None:
    store.close()


def _forked(run: tt.Investigation, store: Any) -> None:
    if os.fork():
        assert os.wait()[1] == 0
        return
    try:
        run.chat("Hi", max_new_tokens=2)
    except tt.TokentapeError as error:
        run.finish()
        sys.exit(int("from which this one was forked" not in str(error)))
    sys.exit(1)


def _turn_in_a_daemon_thread(run: tt.Investigation, store: Any) -> None:
    running = threading.Event()

    def wait(*_: Any) -> None:
        running.set()
        threading.Event().wait()

    chat = threading.Thread(
        target=lambda: run.chat("Hi", max_new_tokens=5, callback=wait), daemon=True
    )
    chat.start()
    running.wait()


def _killed(run: tt.Investigation, store: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


ENDINGS = {
    each.__name__.strip("_"): each
    for each in (
        _exception,
        _exit,
        _signal_in_a_turn,
        _signal_between_turns,
        _ctrl_c,
        _store_closed_first,
        _forked,
        _turn_in_a_daemon_thread,
        _killed,
    )
}


def main(folder: Path) -> None:
    """Let a child end in each way; write its exit status, and what it said, into `folder`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # nohup ignores it, and children inherit that.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    torch.set_num_threads(1)
    lm = tiny_model("llama", byte_tokenizer())
    for name, end in ENDINGS.items():
        child = os.fork()
        if not child:
            errors = os.open(folder / f"{name}.err", os.O_WRONLY | os.O_CREAT)
            os.dup2(errors, 2)
            store = tt.open_store(folder / f"{name}.db")
            run = tt.Investigation(lm, store=store, name=name, system_prompt="Hi.")
            run.chat("Hello", max_new_tokens=2)
            end(run, store)
            return
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        (folder / f"{name}.status").write_text(str(status))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
