"""Plain Python values in place of the numbers and arrays of numpy, torch and pandas."""

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

_PLAIN = (bool, int, float, str, type(None))


def plain_value(value: Any) -> Any:
    """Return the value with every number and array of another library as a plain Python value.

    Scalars and arrays without axes become `bool`, `int` or `float` (exactly: a float32 becomes the
    float of the same number), other arrays lists, at any depth of lists, tuples and mappings. A
    value without such numbers is returned unchanged, the same object.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, list | tuple):
        plain = [plain_value(each) for each in value]
        if all(new is old for new, old in zip(plain, value, strict=True)):
            return value
        return plain if isinstance(value, list) else tuple(plain)
    if isinstance(value, Mapping):
        items = [(plain_number(key), plain_value(each)) for key, each in value.items()]
        pairs = zip(items, value.items(), strict=True)
        same = all(new[0] is old[0] and new[1] is old[1] for new, old in pairs)
        return value if same else dict(items)
    axes = _axes(value)
    if axes and hasattr(value, "tolist"):
        listed = _or_itself(value, "tolist")
        return value if listed is value else plain_value(listed)
    return plain_number(value)


def plain_number(value: Any) -> Any:
    """Return a number of another library as a plain one, and any other value unchanged.

    `Decimal` and `Fraction` become an int if they are whole, else the nearest float.
    """
    if type(value) in _PLAIN or isinstance(value, list | tuple | Mapping):
        return value
    if isinstance(value, Decimal | Fraction):
        return _plain_fraction(value)
    if _axes(value) == 0 and hasattr(value, "item"):
        item = _or_itself(value, "item")
        value = item if isinstance(item, Real | str) else value
    if isinstance(value, bool):
        return value
    # numpy's float64 is a float, and an enumeration of numbers an int: both are exact.
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def plain_whole(value: Any) -> Any:
    """Return a number as `plain_number` does, and a float without a fraction as an `int`."""
    number = plain_number(value)
    is_whole = isinstance(number, float) and number.is_integer()
    return int(number) if is_whole else number


def _axes(value: Any) -> int | None:
    """Return the number of axes of an array or tensor, zero for a scalar, None for other values."""
    shape = getattr(value, "shape", None)
    # A class or a mock may have any attribute.
    return len(shape) if isinstance(shape, tuple) and not isinstance(value, type) else None


def _or_itself(value: Any, method: str) -> Any:
    """Return what a method without arguments returns; the value itself if it fails."""
    try:
        return getattr(value, method)()
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return value


def _plain_fraction(value: Decimal | Fraction) -> int | float | Decimal | Fraction:
    try:
        return int(value) if value == int(value) else float(value)
    except (ArithmeticError, ValueError):  # Decimal has NaN and infinity
        return float(value)
