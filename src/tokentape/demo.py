"""The demo: 20 turns about the model's own weights, recorded, rebuilt and replayed."""

import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console

import tokentape as tt
from tokentape import output
from tokentape.generation.checks import context_tokens
from tokentape.generation.engine.turn import turn_settings
from tokentape.recorder.events import SystemPromptCached
from tokentape.recorder.projections import Turn
from tokentape.replay.reports.terminal import render
from tokentape.store import DatabaseStore, ParquetStore
from tokentape.turns_bar import turns_bar


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptTurn:
    user: str
    tool_call: tt.ToolCall | None
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What is said to the model, what it is shown, and which turns are regenerated."""

    name: str
    seed: int
    system_prompt: str
    turns: tuple[ScriptTurn, ...]
    regenerate: tuple[int, ...]


def read_script(path: Path | None) -> Script:
    """The script in a TOML file, or the bundled one. Raises PromptError for one that is not."""
    try:
        text = (
            path.read_text(encoding="utf-8")
            if path
            else resources.files("tokentape").joinpath("demo.toml").read_text(encoding="utf-8")
        )
        data = tomllib.loads(text)
        sampling = data["sampling"]
        turns = tuple(
            ScriptTurn(
                user=turn["user"],
                tool_call=tt.ToolCall(name=turn["tool"], arguments=turn.get("arguments", {}))
                if "tool" in turn
                else None,
                settings=sampling[turn["sampling"]],
            )
            for turn in data["turns"]
        )
        script = Script(
            name=data["name"],
            seed=data["seed"],
            system_prompt=data["system_prompt"],
            turns=turns,
            regenerate=tuple(data.get("regenerate", [])),
        )
    except OSError as error:
        raise tt.PromptError(f"cannot read the script {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise tt.PromptError(f"the script {path} is not TOML: {error}") from None
    except (KeyError, TypeError) as error:
        raise tt.PromptError(f"the script {path} lacks {error}") from None
    empty = [number for number, turn in enumerate(script.turns, 1) if not turn.user.strip()]
    if empty:
        raise tt.PromptError(f"turn {empty[0]} of the script is empty: there is nothing to say")
    return script


def run_demo(store_url: str, sealed: Path, model: str, script_path: Path | None) -> int:
    """Record, seal and replay; returns the exit code, 1 where any replay failed."""
    script = read_script(script_path)
    console = output.console()
    with output.working(f"loading {model} (the first time takes half a minute)"):
        lm = tt.load_model(model)
    called = {turn.tool_call.name for turn in script.turns if turn.tool_call}
    tools = tt.default_tools(lm).only(sorted(called))
    system_prompt = script.system_prompt.replace("{tools}", tools.documentation())
    _refuse_what_cannot_fit(lm, script, system_prompt)
    with tt.open_store(store_url) as store:
        if isinstance(store, ParquetStore):
            raise tt.StoreError(f"{store_url} is a folder of sealed runs: record into a database")
        run_id, replies, record_s = record_script(lm, store, script, system_prompt, tools)
        recording = store.recording(run_id)
        turns = recording.turns()
        console.print(output.turns_table(turns))
        console.print(_totals(turns, recording), markup=False)
        files = tt.export_parquet(recording, store, sealed)
        size = sum(file.stat().st_size for file in files)
        console.print(f"\nrecorded  {store_url}, run {run_id}", markup=False)
        console.print(f"sealed    {sealed}, {size / 1000:.0f} kB of Parquet\n", markup=False)
        passed = _rebuild(recording, tt.open_store(sealed), replies, console)
        passed &= _verify(recording, lm, console)
        passed &= _regenerate(recording, lm, script.regenerate, console)
    console.print(f"\ngenerating took {record_s:.1f} s; all replays pass: {passed}", markup=False)
    return 0 if passed else 1


def _refuse_what_cannot_fit(lm: tt.LoadedModel, script: Script, system_prompt: str) -> None:
    """Before anything is recorded: settings must exist, and what is said fit without replies."""
    longest = context_tokens(lm.model)
    messages = [{"role": "system", "content": system_prompt}]
    for number, turn in enumerate(script.turns, 1):
        messages.append({"role": "user", "content": turn.user})
        said = str(lm.tokenizer.apply_chat_template(messages, tokenize=False))
        tokens = len(lm.tokenizer.encode(said, add_special_tokens=False))
        new_tokens = turn_settings(lm.model, **turn.settings).config.max_new_tokens
        if longest is not None and tokens + new_tokens > longest:
            raise tt.PromptError(
                f"turn {number} of the script does not fit: the prompts up to there have {tokens} "
                f"tokens, and the model's context is {longest}"
            )


def record_script(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    script: Script,
    system_prompt: str,
    tools: tt.ToolInterface,
) -> tuple[str, list[tt.Reply], float]:
    """The run's id, its replies, and the seconds that they took."""
    began = time.perf_counter()
    replies: list[tt.Reply] = []
    with (
        turns_bar(len(script.turns)) as bar,
        tt.Investigation(
            lm,
            store=store,
            name=script.name,
            system_prompt=system_prompt,
            tools=tools,
            seed=script.seed,
        ) as run,
    ):
        for turn in script.turns:
            reply = run.chat(
                turn.user,
                tool_calls=[turn.tool_call] if turn.tool_call else [],
                callback=bar.token,
                **turn.settings,
            )
            replies.append(reply)
            bar.turn(reply)
    return run.run_id, replies, time.perf_counter() - began


def _totals(turns: Sequence[Turn], recording: tt.Recording) -> str:
    systems = (e.event for e in recording.events() if isinstance(e.event, SystemPromptCached))
    system_tokens = sum(len(event.ids) for event in systems)
    without = sum(len(turn.prompt_ids) for turn in turns)
    computed = system_tokens + sum(turn.cache.computed_tokens for turn in turns if turn.cache)
    return (
        f"\nprompt tokens processed: {computed:,} with reuse (the {system_tokens:,} of the system "
        f"prompt once), {without:,} without: {without / computed:.1f} times fewer"
    )


def _rebuild(
    recording: tt.Recording,
    sealed: DatabaseStore | ParquetStore,
    replies: list[tt.Reply],
    console: Console,
) -> bool:
    began = time.perf_counter()
    rebuilt = tt.rebuild(recording)
    spent = time.perf_counter() - began
    said = [(turn.reply_ids, turn.reply_text) for turn in rebuilt.turns]
    same = said == [(reply.token_ids, reply.text) for reply in replies]
    copy = list(sealed.recording(recording.run_id).events()) == list(recording.events())
    console.print(
        f"rebuild     {'same ids and text' if same else 'DIFFERS from what was said':<20}"
        f"{len(rebuilt.turns)} turns from events alone in {spent:.2f} s; "
        f"the sealed copy {'is equal' if copy else 'DIFFERS'}",
        markup=False,
    )
    return same and copy


def _verify(recording: tt.Recording, lm: tt.LoadedModel, console: Console) -> bool:
    with output.progress("verify") as bar:
        task = bar.add_task("", total=None)
        report = tt.verify(
            recording,
            lm,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    seconds, generation_s = report.duration_us / 1e6, report.generation_us / 1e6
    console.print(
        f"verify      {report.verdict:<20}{len(report.turns)} turns in one forward in "
        f"{seconds:.1f} s, {generation_s / seconds:.1f} times faster than their generation",
        markup=False,
    )
    if not report.passes:
        console.print(render(report), markup=False)
    return report.passes


def _regenerate(
    recording: tt.Recording, lm: tt.LoadedModel, numbers: tuple[int, ...], console: Console
) -> bool:
    passed = True
    for number in numbers:
        with output.working(f"regenerating turn {number} with Hugging Face generate"):
            report = tt.regenerate(recording, lm, turns=[number])
        turn = report.turns[0]
        sampling = "sampled" if turn.sampled else "greedy"
        console.print(
            f"regenerate  {report.verdict:<20}turn {number} ({sampling}, {turn.tokens} tokens) in "
            f"{report.duration_us / 1e6:.1f} s, recorded in {report.generation_us / 1e6:.1f} s",
            markup=False,
        )
        if not report.passes:
            console.print(render(report), markup=False)
        passed &= report.passes
    return passed
