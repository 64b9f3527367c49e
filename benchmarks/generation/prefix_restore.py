"""Start of a process whose system prompt was cached on disk by an earlier process.

`python -m benchmarks.generation.prefix_restore FOLDER MODEL TOKENS NEW_TOKENS` is one start and
prints its figures as JSON. The first start in a folder computes and stores, later ones restore.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import tokentape as tt
from benchmarks.prompts import question_ids, system_prompt
from benchmarks.stores import EventList
from tokentape.recorder.events import SystemPromptCached


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFigures:
    """One start: the time to cache the system prompt, and the reply to one question."""

    source: str
    """`disk` if the cache was restored, else empty."""
    computed_tokens: int
    """Tokens of the system prompt that were forwarded, without the one that checks a restored
    cache.
    """
    seconds: float
    token_ids: list[int]
    """The reply."""


def measure_prefix_restore(
    folder: Path,
    *,
    model: str,
    system_tokens: int,
    new_tokens: int,
    tick: Callable[[], None] = lambda: None,
) -> tuple[StartFigures, StartFigures]:
    """Start a process that computes the system prompt, then one that restores it."""
    starts = []
    for _ in range(2):
        starts.append(_start_in_subprocess(folder, model, system_tokens, new_tokens))
        tick()
    return starts[0], starts[1]


def measure_start(
    folder: Path, lm: tt.LoadedModel, system_tokens: int, new_tokens: int
) -> StartFigures:
    """Cache the system prompt with a prefix folder, and answer one question."""
    log = EventList()
    generator = tt.ManualGenerator(
        lm.model, lm.tokenizer, tt.Recorder(log), identity=lm.identity, prefix_folder=folder
    )
    text = system_prompt(lm.tokenizer, system_tokens)
    began = time.perf_counter()
    generator.cache_system_prompt(text)
    seconds = time.perf_counter() - began
    cached = next(each for each in log.events if isinstance(each, SystemPromptCached))
    ids = [*cached.ids, *question_ids(lm.tokenizer, 1, 40)]
    reply = generator.generate(ids, max_new_tokens=new_tokens, do_sample=False)
    return StartFigures(
        source=cached.source,
        computed_tokens=sum(cached.chunks),
        seconds=seconds,
        token_ids=reply["generated_tokens"],
    )


def _start_in_subprocess(
    folder: Path, model: str, system_tokens: int, new_tokens: int
) -> StartFigures:
    arguments = [str(folder), model, str(system_tokens), str(new_tokens)]
    command = [sys.executable, "-m", "benchmarks.generation.prefix_restore", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise tt.ModelError(f"the process that caches the system prompt failed: {why[0]}")
    return StartFigures(**json.loads(done.stdout))


def _main(folder: str, model: str, system_tokens: str, new_tokens: str) -> None:
    lm = tt.load_model(model)
    figures = measure_start(Path(folder), lm, int(system_tokens), int(new_tokens))
    sys.stdout.write(json.dumps(asdict(figures)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
