"""Comparison of the recorded config and code of a model with those of the model in memory."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokentape.generation.fingerprints import TENSOR, moves_numbers
from tokentape.recorder.events import RunStarted
from tokentape.recorder.projections import Turn
from tokentape.replay.results.report import FingerprintDifference

CONFIG, MODEL_CODE, HOOKS = "config", "model_code", "hooks"
NOTED_CONFIG = "config."
"""The beginning of the field of a config value that no forward depends on."""

_NAMED_MAX = 4
_VALUE_CHARS = 80
_OF_THE_MACHINE = ("cpu", "cpu_capability", "gpu", "blas", "mkl")
_GROWING = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True)
class _Changed:
    """A named value that is not the recorded one; None where a side lacks it."""

    name: str
    recorded: Any
    replayed: Any


def is_config_known(started: RunStarted) -> bool:
    """Return whether the run says which config and code its model had; 0.1.0 recorded neither."""
    return bool(started.config or started.module_state or started.model_code)


def is_code_compared(started: RunStarted, now: Mapping[str, Any]) -> bool:
    """Return whether the releases are those recorded, so that hashes of code can be compared."""
    return bool(started.model_code) and _same_software(started, now)


def model_differences(
    started: RunStarted, now: Mapping[str, Any], turns: Sequence[Turn], ignore: Collection[str]
) -> list[FingerprintDifference]:
    """Return the differences of config, values of modules, code and hooks, the forbidding first.

    `now` has the fields of `RunStarted` for the model in memory. Values of modules and hashes of
    code are compared where the releases of Python, torch and transformers are those recorded, and
    buffers on the same machine only: releases differ in them, and machines in the last bits.
    """
    if not is_config_known(started):
        return []
    same_software = _same_software(started, now)
    fields = list(_changes(started.config, now["config"], same_software))
    counted = [each for each in fields if moves_numbers(each.name)]
    if same_software:
        same_machine = _same_machine(started, now)
        counted += _changed_state(started.module_state, now["module_state"], same_machine)
    counted += _changed_in_the_run(turns, started)
    found = _difference(CONFIG, counted, ignore)
    found += _difference(MODEL_CODE, _changed_code(started, now, same_software), ignore)
    hooks = list(_changes(_part(started, "hooks"), _part(now, "hooks"), True))
    hooks += _foreign_hooks(turns, now)
    found += _difference(HOOKS, hooks, ignore, forbids=False)
    for each in fields:
        if not moves_numbers(each.name):
            found += _difference(f"{NOTED_CONFIG}{each.name}", [each], ignore, forbids=False)
    return found


def _difference(
    field: str, changed: Iterable[_Changed], ignore: Collection[str], *, forbids: bool = True
) -> list[FingerprintDifference]:
    """Return one difference that names the first changes, or none."""
    changes = list(changed)
    if not changes:
        return []
    shown = changes[:_NAMED_MAX]
    more = f"; and {len(changes) - len(shown)} more" if len(changes) > len(shown) else ""
    told = (
        f"{each.name} {_text(each.recorded)} then, {_text(each.replayed)} now" for each in shown
    )
    short = field.startswith(NOTED_CONFIG)
    return [
        FingerprintDifference(
            field=field,
            recorded="; ".join(_side(each.name, each.recorded, short) for each in shown) + more,
            replayed="; ".join(_side(each.name, each.replayed, short) for each in shown) + more,
            forbids=forbids,
            ignored=forbids and field in ignore,
            detail="" if short else "; ".join(told) + more,
        )
    ]


def _side(name: str, value: Any, short: bool) -> str:
    return _text(value) if short else f"{name} {_text(value)}"


def _text(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _VALUE_CHARS else f"{text[:_VALUE_CHARS]}…"


def _changes(
    recorded: Mapping[str, Any], now: Mapping[str, Any], same_software: bool
) -> Iterator[_Changed]:
    """Yield the values that differ; of two releases only those that both have."""
    for name in sorted({*recorded, *now}):
        both = name in recorded and name in now
        before, after = recorded.get(name), now.get(name)
        # By their digits too: 1 and 1.0 may be computed with differently.
        if (before != after or type(before) is not type(after)) and (both or same_software):
            yield _Changed(name, before, after)


def _changed_state(
    recorded: Mapping[str, Any], now: Mapping[str, Any], same_machine: bool
) -> Iterator[_Changed]:
    for each in _changes(recorded, now, True):
        tensors = [str(value).startswith(TENSOR) for value in (each.recorded, each.replayed)]
        if same_machine or not all(tensors):
            yield each


def _changed_code(
    started: RunStarted, now: Mapping[str, Any], same_software: bool
) -> Iterator[_Changed]:
    """Yield the classes, kernels and replaced functions, or else source files, that differ."""
    before, after = started.model_class, now["model_class"]
    # Releases move their classes.
    of_class = before, after
    if not same_software:
        of_class = before.rpartition(".")[2], after.rpartition(".")[2]
    if of_class[0] != of_class[1]:
        yield _Changed("the model's class", *of_class)
    if not same_software:
        yield from _changes(_part(started, "files"), _part(now, "files"), False)
        return
    # Other classes than recorded are found by the modules that have them: `module_state`.
    yield from _changes(_part(started, "classes"), _part(now, "classes"), False)
    if started.attention_kernel == now["attention_kernel"]:
        for each in _changes(_part(started, "kernel"), _part(now, "kernel"), True):
            name = f"the function {each.name} of the kernel {started.attention_kernel}"
            yield _Changed(name, each.recorded, each.replayed)
    for each in _changes(_part(started, "replaced"), _part(now, "replaced"), True):
        module = each.name.rpartition(".")[0]
        if started.module_state.get(module) == now["module_state"].get(module):
            yield each


def _part(side: RunStarted | Mapping[str, Any], name: str) -> Mapping[str, Any]:
    code = side.model_code if isinstance(side, RunStarted) else side["model_code"]
    part = code.get(name, {})
    return part if isinstance(part, Mapping) else {}


def _changed_in_the_run(turns: Sequence[Turn], started: RunStarted) -> Iterator[_Changed]:
    """Yield what changed within the run by the cache keys of its turns, which hold hashes.

    Turns with other adapters are left out: these change the modules that hold them.
    """
    grows = any(kind in str(value) for value in started.config.values() for kind in _GROWING)
    for name in ("config",) if grows else ("config", "attributes"):
        first: tuple[int, object, object] | None = None
        for turn in turns:
            key = {} if turn.cache is None else turn.cache.key
            if name not in key:
                continue
            value = key[name]
            first = first or (turn.number, value, key.get("adapters"))
            if value != first[1] and key.get("adapters") == first[2]:
                kind = "the config" if name == "config" else "the numbers of the modules"
                where = f"{kind}, by the cache keys of turns {first[0]} and {turn.number},"
                yield _Changed(where, first[1], value)
                break


def _foreign_hooks(turns: Sequence[Turn], now: Mapping[str, Any]) -> Iterator[_Changed]:
    """Yield that foreign hooks acted in a turn, where the model has none today."""
    if _part(now, "hooks"):
        return
    for turn in turns:
        if turn.cache is not None and turn.cache.key.get("hooks", "none") != "none":
            yield _Changed(f"hooks in turn {turn.number}", "foreign", None)
            return


def _same_software(started: RunStarted, now: Mapping[str, Any]) -> bool:
    return _part_text(started, "compiler") == _part_text(now, "compiler") and all(
        started.environment.get(name) == now["environment"].get(name)
        for name in ("torch", "transformers")
    )


def _part_text(side: RunStarted | Mapping[str, Any], name: str) -> str:
    code = side.model_code if isinstance(side, RunStarted) else side["model_code"]
    return str(code.get(name, ""))


def _same_machine(started: RunStarted, now: Mapping[str, Any]) -> bool:
    return (started.device, started.dtype) == (now["device"], now["dtype"]) and all(
        started.environment.get(name) == now["environment"].get(name) for name in _OF_THE_MACHINE
    )
