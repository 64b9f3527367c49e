"""The code that a model runs: classes of its modules, functions in their place, foreign hooks."""

import hashlib
import inspect
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

from tokentape.generation.fingerprints.functions import (
    code_sha256,
    compiler,
    function_name,
    python_function,
)
from tokentape.generation.fingerprints.module_state import numbered, own_modules
from tokentape.generation.hf.attention_function import attention_functions
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.generation.hf.layer_cast import stored_class
from tokentape.generation.hooks.hook_types import foreign_hooks

_FILE_BYTES_MAX = 8 * 1024**2
_FILES_MAX = 64
_ENTRIES_MAX = 256
_PACKAGES = frozenset({"torch", "transformers"})
"""Packages whose release is recorded, so that their files need no hash."""
"""Hooks of transformers that read hidden states, and stay after they were asked for once."""


def model_class(model: Any) -> str:
    """Return the qualified name of the model's class, or of the one that PEFT wraps."""
    _, innermost = next(own_modules(model), ("", model))
    kind = stored_class(type(innermost))
    return f"{kind.__module__}.{kind.__qualname__}"


def model_code(model: Any) -> dict[str, Any]:
    """Return hashes of the code that a forward of the model runs.

    - `compiler`: what the hashes of `classes`, `replaced` and `kernel` depend on.
    - `classes`: by class of modules, the hash of its methods and of the functions that they call.
    - `kernel`: of the functions registered for the attention kernel.
    - `replaced`: by module and attribute, of functions that an instance holds itself.
    - `hooks`: by module, of forward hooks that are not tokentape's own.
    - `files`: of the source files of classes that are not part of transformers or torch.

    Takes some milliseconds.
    """
    kinds = _classes(model)
    kernel = attention_functions(attention_kernel(model))
    replaced, hooks = _replaced(model), _hooks(model)
    return {
        "compiler": compiler(),
        "classes": {_short_name(kind): code_sha256(_methods(kind)) for kind in kinds},
        "kernel": {name: code_sha256([function]) for name, function in kernel.items()},
        **({"replaced": replaced} if replaced else {}),
        **({"hooks": hooks} if hooks else {}),
        **({"files": files} if (files := _files(kinds)) else {}),
    }


def _classes(model: Any) -> list[type[Any]]:
    kinds = {stored_class(type(module)) for _, module in own_modules(model)}
    return sorted(kinds, key=_short_name)


def _short_name(kind: type[Any]) -> str:
    return f"{kind.__module__.rpartition('.')[2]}.{kind.__qualname__}"


def _methods(kind: type[Any]) -> Iterator[Callable[..., Any]]:
    """Yield the methods that a class has of its own or inherits from outside of torch.

    Of the classes of torch `forward` counts, and of models of transformers that which is theirs.
    """
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        if base in (object, nn.Module) or base.__module__.startswith("transformers.generation"):
            continue
        is_library = package == "torch" or base.__module__ in (
            "transformers.modeling_utils",
            "transformers.integrations.peft",
            "transformers.utils.hub",
        )
        for name, value in vars(base).items():
            if python_function(value) is not None and (name == "forward" or not is_library):
                yield value


def _replaced(model: Any) -> dict[str, str]:
    """Return the hashes of functions that modules hold themselves."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, module in own_modules(model):
        pattern, numbers = numbered(path)
        for name, value in vars(module).items():
            if _is_function_of(module, name, value):
                hashed = f"{function_name(value)} {code_sha256([value])}"
                found[f"{pattern}.{name}" if pattern else name][hashed].append(numbers)
    return _texts(found)


def _is_function_of(module: Any, name: str, value: Any) -> bool:
    """Return whether an attribute of a module is a function that a forward may call."""
    if name.startswith("_") or isinstance(value, type | nn.Module) or not callable(value):
        return False
    if python_function(value) is None and not hasattr(value, "func"):
        return False
    # accelerate puts its own forward before that of the class, and keeps that.
    if name == "forward" and hasattr(module, "_hf_hook"):
        value = vars(module).get("_old_forward", value)
    method = getattr(stored_class(type(module)), name, None)
    return python_function(value) is not python_function(method) or method is None


def _hooks(model: Any) -> dict[str, str]:
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    everywhere = (
        *torch_module._global_forward_hooks.values(),
        *torch_module._global_forward_pre_hooks.values(),
    )
    for each in everywhere:
        found["every module"][_hook_text(each)].append("")
    for path, module in own_modules(model):
        pattern, numbers = numbered(path)
        for hook in foreign_hooks(module).values():
            found[pattern][_hook_text(hook)].append(numbers)
    return _texts(found)


def _hook_text(hook: Any) -> str:
    # A hook may be an object, which acts by the method of its class.
    call = hook if python_function(hook) is not None else vars(type(hook)).get("__call__", hook)
    return f"{function_name(hook)} {code_sha256([call])}"


def _texts(found: dict[str, dict[str, list[str]]]) -> dict[str, str]:
    """Return each name with its functions, and the numbers of the layers that have them."""
    texts = {
        name: ", ".join(
            f"{function} in {' '.join(sorted(numbers))}" if any(numbers) else function
            for function, numbers in sorted(of_name.items())
        )
        for name, of_name in sorted(found.items())
    }
    return dict(list(texts.items())[:_ENTRIES_MAX])


def _files(kinds: list[type[Any]]) -> dict[str, str]:
    """Return the hashes of the source files of classes that no release names, by module."""
    bases = {base for kind in kinds for base in kind.__mro__ if base is not object}
    modules = {base.__module__ for base in bases}
    foreign = sorted(each for each in modules if each.partition(".")[0] not in _PACKAGES)
    found = {}
    for name in foreign[:_FILES_MAX]:
        digest = _file_sha256(sys.modules.get(name))
        if digest:
            found[name.rpartition(".")[2]] = digest
    return found


def _file_sha256(module: types.ModuleType | None) -> str:
    try:
        path = Path(inspect.getsourcefile(module) or "") if module is not None else Path()
        if not path.is_file() or path.stat().st_size > _FILE_BYTES_MAX:
            return ""
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except (OSError, TypeError):
        return ""
