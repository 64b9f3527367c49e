"""Rendering of chat templates, which come with a model, within limits of time and memory.

The sandbox of Jinja keeps a template from running code, but not from `{{ 'x' * 10**10 }}`: no value
that a template makes is longer than `_LENGTH_MAX` here, no integer has more than `_BITS_MAX` bits,
and no rendering takes longer than `TEMPLATE_SECONDS_MAX`.
"""

import ctypes
import functools
import inspect
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.nodes import Concat
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

TEMPLATE_SECONDS_MAX = 5.0
_LENGTH_MAX = 32 * 1024**2
"""Characters of a text, and elements of a list."""
_BITS_MAX = 4096
_WIDTH = re.compile(r"%[^a-zA-Z%]*(\d{6}|\*)|\{[^}]*:[^}]*(\d{6}|\{)")
"""A width in a format that pads to more than 100,000 characters, or is taken from an argument."""

_PADDING = ("center", "expandtabs", "ljust", "rjust", "to_bytes", "zfill")
"""Methods whose arguments are lengths."""
_REFUSED_METHODS = ("translate",)
_REFUSED_FILTERS = ("striptags", "urlize", "wordwrap", "xmlattr")
"""Filters that take quadratic time, and that no chat template needs."""


class TemplateLimitError(SecurityError):
    """A template takes more time or memory than any conversation needs."""


class _TemplateTimeout(Exception):
    """Raised in the thread that renders, by a timer."""


def apply_chat_template(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], **settings: Any
) -> Any:
    """Return `tokenizer.apply_chat_template(messages, **settings)`.

    Raise TemplateLimitError if the template takes more than the limits, otherwise as the tokenizer.
    """
    with _LOCK, _bounded_environment():
        try:
            with _time_limit(TEMPLATE_SECONDS_MAX):
                return tokenizer.apply_chat_template(messages, **settings)
        except _TemplateTimeout:
            raise TemplateLimitError(
                f"rendering takes longer than {TEMPLATE_SECONDS_MAX:g} seconds"
            ) from None


_LOCK = threading.RLock()


_UTILS: Any = chat_template_utils
_COMPILE = inspect.unwrap(_UTILS._compile_jinja_template)


@contextmanager
def _bounded_environment() -> Iterator[None]:
    """Let transformers render with `BoundedEnvironment`, which differs in its limits only."""
    compile_template = _UTILS._compile_jinja_template
    _UTILS._compile_jinja_template = _compiled
    try:
        yield
    finally:
        _UTILS._compile_jinja_template = compile_template


@functools.lru_cache(maxsize=16)
def _compiled(chat_template: str) -> Any:
    environment = _UTILS.ImmutableSandboxedEnvironment
    _UTILS.ImmutableSandboxedEnvironment = BoundedEnvironment
    try:
        return _COMPILE(chat_template)
    finally:
        _UTILS.ImmutableSandboxedEnvironment = environment


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise _TemplateTimeout in this thread if the block takes longer."""
    lock, thread = threading.Lock(), threading.get_ident()
    ended = False

    def stop() -> None:
        with lock:
            if not ended:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(_TemplateTimeout)
                )

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            ended = True
        timer.cancel()


class _BoundedCode(CodeGenerator):
    """Compiles `~` to a call of `BoundedEnvironment.concatenate`."""

    def visit_Concat(self, node: Concat, frame: Frame) -> None:
        self.write("environment.concatenate((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with limits on every operation that makes long values of short ones."""

    intercepted_binops = frozenset(("+", "*", "**", "%", "/", "//", "-"))
    code_generator_class = _BoundedCode

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.globals.pop("lipsum", None)
        for name in _REFUSED_FILTERS:
            self.filters.pop(name, None)
        for name in ("batch", "center", "format", "indent", "join", "replace", "round", "sum"):
            self.filters[name] = _bounded(name, self.filters[name])

    concat = staticmethod(lambda parts: _joined("", parts))

    def concatenate(self, parts: Iterable[Any]) -> str:
        """Return the texts of values, joined."""
        return _joined("", map(str, parts))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Return the result of an operator. Raise TemplateLimitError if it would be too long."""
        for each in (left, right):
            if isinstance(each, int) and each.bit_length() > _BITS_MAX:
                raise TemplateLimitError("a number is too large")
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_length(left.bit_length() * max(right, 0), _BITS_MAX)
        elif operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if _is_long(sequence) and isinstance(times, int):
                    _check_length(len(sequence) * max(times, 0))
        elif operator == "+" and _is_long(left) and _is_long(right):
            _check_length(len(left) + len(right))
        elif operator == "%" and isinstance(left, str | bytes):
            _check_format(left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *given: Any, **named: Any) -> Any:
        """Call a function. Raise TemplateLimitError for a method that would return too much."""
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str | bytes | int):
            _check_method(owner, name, given, named)
        return super().call(context, function, *given, **named)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return a `str.format` or `format_map` that first checks its result's length, or None."""
        format_text = super().wrap_str_format(value)
        if format_text is None:
            return None

        def bounded(*given: Any, **named: Any) -> str:
            _check_format(value.__self__, [*given, *named.values()])
            return format_text(*given, **named)

        return bounded


def _check_method(owner: Any, name: str, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    values = [*given, *named.values()]
    if name in _REFUSED_METHODS:
        raise TemplateLimitError(f"it calls {name}")
    if name in _PADDING:
        lengths = [each for each in values if isinstance(each, int)]
        tabs = owner.count("\t") + 1 if name == "expandtabs" else 1
        _check_length(max(lengths, default=0) * tabs)
    elif name == "join" and values:
        _check_join(owner, values[0])
    elif name == "replace" and len(values) > 1:
        _check_length(len(owner) + (owner.count(values[0]) + 1) * len(values[1]))
    elif name in ("format", "format_map"):  # Jinja before 3.1.5 has no `wrap_str_format`
        _check_format(owner, values)


def _bounded(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that first checks how long its result can be."""
    passed = 1 if hasattr(filter_, "jinja_pass_arg") else 0

    @functools.wraps(filter_)
    def bounded(*given: Any, **named: Any) -> Any:
        value, *arguments = given[passed:]
        lengths = [each for each in (*arguments, *named.values()) if isinstance(each, int)]
        texts = [str(each) for each in (*arguments, *named.values())]
        if name in ("batch", "center", "round"):
            _check_length(max(lengths, default=0), 100_000)
        elif name == "indent":
            width = max([*lengths, *map(len, texts), 4])
            _check_length(len(str(value)) + (str(value).count("\n") + 1) * width)
        elif name == "format":
            _check_format(str(value), [*arguments, *named.values()])
        elif name == "replace" and len(texts) > 1:
            _check_length(len(str(value)) + (str(value).count(texts[0]) + 1) * len(texts[1]))
        elif name == "join":
            value = list(value)
            parts = [each for each in value if _is_long(each)]
            separator = len(texts[0]) if texts else 0
            _check_length(sum(map(len, parts)) + separator * len(value))
            return filter_(*given[:passed], value, *arguments, **named)
        elif name == "sum" and any(_is_long(each) for each in (*arguments, *named.values())):
            raise TemplateLimitError("it sums texts or lists")
        return filter_(*given, **named)

    return bounded


def _check_join(separator: Any, parts: Any) -> None:
    if isinstance(parts, list | tuple | str):
        length = sum(len(each) for each in parts if isinstance(each, str | bytes))
        _check_length(length + len(separator) * len(parts))


def _check_format(text: Any, given: Any) -> None:
    pattern = text.decode("latin-1") if isinstance(text, bytes) else str(text)
    if _WIDTH.search(pattern):
        raise TemplateLimitError("it pads a text to a great length")
    values = given.values() if isinstance(given, dict) else given
    values = list(values) if isinstance(given, dict | list | tuple) else [given]
    # The argument of `format_map`.
    values += [part for each in values if isinstance(each, dict) for part in each.values()]
    longest = max((len(each) for each in values if _is_long(each)), default=0)
    _check_length(len(pattern) + (pattern.count("%") + pattern.count("{")) * longest)


def _joined(separator: str, parts: Iterable[str]) -> str:
    found, length = [], 0
    for each in parts:
        length += len(each) + len(separator)
        _check_length(length)
        found.append(each)
    return separator.join(found)


def _is_long(value: Any) -> bool:
    return isinstance(value, str | bytes | list | tuple)


def _check_length(length: int, length_max: int = _LENGTH_MAX) -> None:
    if length > length_max:
        raise TemplateLimitError("it makes a text, a list or a number that is too long")
