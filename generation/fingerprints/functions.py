"""Hashes of Python functions by what they compute: their compiled code and that of their helpers.

Another source with the same code has the same hash, a function that was replaced at run time has
another one. The compiled code depends on the release of Python; see `compiler`.
"""

import functools
import hashlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_FUNCTIONS_MAX = 2_000
_PLAIN = (int, float, str, bytes, bool, type(None))
_NOT_FOLLOWED = frozenset(
    {*sys.stdlib_module_names, "huggingface_hub", "numpy", "packaging", "safetensors", "torch"}
)
"""Packages whose functions are named by their release; a function put into one is followed."""


def compiler() -> str:
    """Return the release of Python and the optimisation that compiled code depends on."""
    return f"{sys.implementation.cache_tag}-O{sys.flags.optimize}"


def code_sha256(functions: Iterable[Callable[..., Any]]) -> str:
    """Return 64 bits of a sha256 over functions, their helpers and what they were defined with.

    Helpers are the functions that the code names, in its module and in its closure. Those of torch
    and of the standard library count only if something else was put in their place.
    """
    seen: dict[tuple[int, str], str] = {}
    for function in functions:
        _follow(function, seen)
    digest = hashlib.sha256("\n".join(sorted(seen.values())).encode())
    return digest.hexdigest()[:16]


def function_name(function: Any) -> str:
    """Return the qualified name of a function, or of what stands for one."""
    plain = _unbound(function)
    name = getattr(plain, "__qualname__", "") or type(plain).__qualname__
    return str(name)


def full_function_name(function: Any) -> str:
    """Return the module and the qualified name of a function, or of what stands for one."""
    plain = _unbound(function)
    named = plain if getattr(plain, "__qualname__", "") else type(plain)
    return f"{getattr(named, '__module__', '')}.{named.__qualname__}"


def python_function(value: Any) -> types.FunctionType | None:
    """Return the Python function that a callable runs; None for built-in ones and others."""
    plain = _unbound(value)
    return plain if isinstance(plain, types.FunctionType) else None


def _unbound(value: Any) -> Any:
    """Return what a bound method, a partial, a property or a static method calls."""
    for _ in range(8):
        if isinstance(value, functools.partial):
            value = value.func
        elif isinstance(value, types.MethodType | staticmethod | classmethod):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        elif isinstance(value, functools.cached_property):
            value = value.func
        else:
            return value
    return value


def _follow(value: Any, seen: dict[tuple[int, str], str]) -> None:
    """Add a function and its helpers to `seen`, which has the text of each."""
    waiting = [value]
    while waiting and len(seen) < _FUNCTIONS_MAX:
        each = waiting.pop()
        function, given = python_function(each), _given_values(each)
        key = (id(function or _unbound(each)), given)
        if key in seen:
            continue
        if function is None:
            seen[key] = f"{function_name(each)} {given}"
            continue
        seen[key] = f"{function.__qualname__} {_defined(function)} {given}"
        waiting += _helpers(function)


def _given_values(value: Any) -> str:
    """Return the plain arguments that partials were given."""
    if not isinstance(value, functools.partial):
        return ""
    named = sorted(value.keywords.items())
    return repr([each for each in (*value.args, *named) if _is_plain(each)])


def _defined(function: types.FunctionType) -> str:
    """Return a hash of the code, its defaults and the plain values of its closure."""
    digest = hashlib.sha256()
    _add_code(function.__code__, digest)
    defaults = [*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())]
    cells = [_content(each) for each in function.__closure__ or ()]
    # A flag or a count in a closure may change from call to call.
    fixed = [each for each in cells if type(each) in (float, str)]
    digest.update(repr([each for each in defaults if _is_plain(each)]).encode())
    digest.update(repr(fixed).encode())
    return digest.hexdigest()[:16]


def _add_code(code: types.CodeType, digest: Any) -> None:
    digest.update(code.co_code)
    digest.update(repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _add_code(constant, digest)
        elif isinstance(constant, frozenset):
            # Their order depends on the process.
            digest.update(repr(sorted(map(repr, constant))).encode())
        else:
            digest.update(repr(constant).encode())


def _helpers(function: types.FunctionType) -> Iterator[Any]:
    """Yield the functions that a function may call by a name of its module, or of its closure."""
    names = set(_names(function.__code__))
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, types.ModuleType):
            members = (vars(value).get(each) for each in names)
            yield from (each for each in members if _is_followed(each))
        elif _is_followed(value) and not _is_imported_late(name, value, function):
            yield value
    for cell in function.__closure__ or ():
        value = _content(cell)
        if _is_followed(value):
            yield value


def _is_followed(value: Any) -> bool:
    function = python_function(value)
    if function is None:
        return False
    package = str(function.__globals__.get("__name__", "")).partition(".")[0]
    return package not in _NOT_FOLLOWED


def _is_imported_late(name: str, value: Any, user: types.FunctionType) -> bool:
    """Return whether a private name of a module may be filled on first use, e.g. with a kernel."""
    found = python_function(value)
    return name.startswith("_") and found is not None and found.__globals__ is not user.__globals__


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)
