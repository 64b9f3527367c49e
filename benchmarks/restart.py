"""A process that begins with a system prompt that another one has kept on disk.

`python -m benchmarks.restart FOLDER MODEL TOKENS NEW_TOKENS` is one start, with its figures as
JSON. The first start in a folder computes and keeps, the next ones restore.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import tokentape as tt
from benchmarks.contenders import EventList
from benchmarks.texts import question_ids, system_prompt
from tokentape.recorder.events import SystemPromptCached


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """One start: what the system prompt took, and what the model said behind it.

    `computed_tokens` went through the model, apart from the one that proves a restored cache.
    """

    source: str
    computed_tokens: int
    seconds: float
    token_ids: list[int]


def measure_restart(
    folder: Path,
    *,
    model: str,
    system_tokens: int,
    new_tokens: int,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Begun, Begun]:
    """A process that computes the system prompt, and a second one that restores it."""
    begun = []
    for _ in range(2):
        begun.append(_in_a_process(folder, model, system_tokens, new_tokens))
        tick()
    return begun[0], begun[1]


def begin(folder: Path, lm: tt.LoadedModel, system_tokens: int, new_tokens: int) -> Begun:
    """Cache the system prompt with a folder to keep it in, and answer one question."""
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
    return Begun(
        source=cached.source,
        computed_tokens=sum(cached.chunks),
        seconds=seconds,
        token_ids=reply["generated_tokens"],
    )


def _in_a_process(folder: Path, model: str, system_tokens: int, new_tokens: int) -> Begun:
    arguments = [str(folder), model, str(system_tokens), str(new_tokens)]
    command = [sys.executable, "-m", "benchmarks.restart", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise tt.ModelError(f"a second process could not begin: {why[0]}")
    return Begun(**json.loads(done.stdout))


def _main(folder: str, model: str, system_tokens: str, new_tokens: str) -> None:
    lm = tt.load_model(model)
    begun = begin(Path(folder), lm, int(system_tokens), int(new_tokens))
    sys.stdout.write(json.dumps(asdict(begun)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
