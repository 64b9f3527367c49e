"""The list of a model's tensors, each with a digest of its bytes, as it is kept."""

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

_FORMAT = "tokentape-weights-1"
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFingerprint:
    """`digest` is 128 bits of BLAKE2b over the tensor's bytes, in hexadecimal."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class WeightsManifest:
    """Every tensor of a state dict, in the order of names; one with several names is there once.

    `payload` is the same bytes for the same tensors: JSON without spaces. Tensors whose names
    differ in the first number only, as those of layers do, share an entry: `[before, [number, …],
    behind, dtype, shape, digests]`. One without a number is `[name, [], "", dtype, shape, digest]`.
    Digests are the base64 of their bytes, one after the other.
    """

    tensors: tuple[TensorFingerprint, ...]
    payload: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.payload).hexdigest()

    @classmethod
    def of(cls, tensors: Iterable[TensorFingerprint]) -> Self:
        ordered = tuple(sorted(tensors, key=lambda each: each.name))
        return cls(ordered, _written(ordered))

    @classmethod
    def read(cls, payload: bytes) -> Self:
        """The list with that payload. Raises ValueError for what is none."""
        try:
            described = json.loads(payload)
            if described["format"] != _FORMAT:
                raise ValueError(f"its format is {described['format']!r}")
            found = cls.of(each for entry in described["tensors"] for each in _read(*entry))
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"this is no list of weights: {error!r}") from None
        if found.payload != payload:
            raise ValueError("this list of weights is not written as one is")
        return found


def _written(tensors: Sequence[TensorFingerprint]) -> bytes:
    families: dict[tuple[Any, ...], list[tuple[int, str]]] = defaultdict(list)
    entries: list[list[Any]] = []
    for each in tensors:
        before, number, behind = split_at_number(each.name)
        if number is None:
            entries.append([each.name, [], "", each.dtype, each.shape, _base64(each.digest)])
        else:
            families[before, behind, each.dtype, each.shape].append((number, each.digest))
    for (before, behind, dtype, shape), members in families.items():
        members.sort()
        numbers = [number for number, _ in members]
        digests = _base64("".join(digest for _, digest in members))
        entries.append([before, numbers, behind, dtype, shape, digests])
    # The same families in another order would be the same list with another sum.
    entries.sort()
    described = {"format": _FORMAT, "tensors": entries}
    return json.dumps(described, separators=(",", ":"), sort_keys=True).encode()


def _read(
    before: str, numbers: list[int], behind: str, dtype: str, shape: list[int], digests: str
) -> Iterator[TensorFingerprint]:
    if not all(isinstance(each, str) for each in (before, behind, dtype)):
        raise TypeError("names and types are text")
    if not all(isinstance(each, int) for each in (*numbers, *shape)):
        raise TypeError("numbers and shapes are integers")
    raw = base64.b64decode(digests, validate=True).hex()
    step = 2 * _DIGEST_BYTES
    found = [raw[start : start + step] for start in range(0, len(raw), step)]
    names = [f"{before}{number}{behind}" for number in numbers] or [before]
    for name, digest in zip(names, found, strict=True):
        yield TensorFingerprint(name=name, dtype=dtype, shape=tuple(shape), digest=digest)


def _base64(digests: str) -> str:
    return base64.b64encode(bytes.fromhex(digests)).decode()


def split_at_number(name: str) -> tuple[str, int | None, str]:
    """What is before a name's first number, the number, and what is behind it: those of a layer.

    The number is None where no part between dots is one.
    """
    parts = name.split(".")
    for place, part in enumerate(parts):
        # A number that is written in another way would not come back as it was.
        if part.isascii() and part.isdecimal() and str(int(part)) == part:
            before, behind = parts[:place], parts[place + 1 :]
            return (
                "".join(f"{each}." for each in before),
                int(part),
                "".join(f".{each}" for each in behind),
            )
    return name, None, ""
