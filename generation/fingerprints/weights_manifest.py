"""The weights manifest: all tensors of a model with their digests, and its JSON format."""

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
    """The name, dtype and shape of a tensor, and a digest of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str
    """128 bits of BLAKE2b, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class WeightsManifest:
    """Every tensor of a state dict, sorted by name. Tied tensors are listed once.

    The payload is canonical JSON. Tensors whose names differ only in their first number, e.g. those
    of layers, share an entry: `[prefix, [number, …], suffix, dtype, shape, digests]`. A tensor
    without a number is `[name, [], "", dtype, shape, digest]`. Digests are concatenated and encoded
    in base64.
    """

    tensors: tuple[TensorFingerprint, ...]
    payload: bytes

    @property
    def sha256(self) -> str:
        """Hexadecimal sha256 of the payload: the fingerprint of the weights."""
        return hashlib.sha256(self.payload).hexdigest()

    @classmethod
    def of(cls, tensors: Iterable[TensorFingerprint]) -> Self:
        """Return the manifest of these tensors, in any order."""
        ordered = tuple(sorted(tensors, key=lambda each: each.name))
        return cls(ordered, _encode(ordered))

    @classmethod
    def read(cls, payload: bytes) -> Self:
        """Return the manifest with this payload. Raise ValueError if it is invalid."""
        try:
            described = json.loads(payload)
            if described["format"] != _FORMAT:
                raise ValueError(f"unknown format {described['format']!r}")
            found = cls.of(each for entry in described["tensors"] for each in _decode(*entry))
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"invalid weights manifest: {error!r}") from None
        if found.payload != payload:
            raise ValueError("invalid weights manifest: not in canonical form")
        return found


def _encode(tensors: Sequence[TensorFingerprint]) -> bytes:
    families: dict[tuple[Any, ...], list[tuple[int, str]]] = defaultdict(list)
    entries: list[list[Any]] = []
    for each in tensors:
        prefix, number, suffix = split_at_number(each.name)
        if number is None:
            entries.append([each.name, [], "", each.dtype, each.shape, _base64(each.digest)])
        else:
            families[prefix, suffix, each.dtype, each.shape].append((number, each.digest))
    for (prefix, suffix, dtype, shape), members in families.items():
        members.sort()
        numbers = [number for number, _ in members]
        digests = _base64("".join(digest for _, digest in members))
        entries.append([prefix, numbers, suffix, dtype, shape, digests])
    # Sorted, so that the same tensors always have the same payload.
    entries.sort()
    described = {"format": _FORMAT, "tensors": entries}
    return json.dumps(described, separators=(",", ":"), sort_keys=True).encode()


def _decode(
    prefix: str, numbers: list[int], suffix: str, dtype: str, shape: list[int], digests: str
) -> Iterator[TensorFingerprint]:
    if not all(isinstance(each, str) for each in (prefix, suffix, dtype)):
        raise TypeError("names and dtypes must be text")
    if not all(isinstance(each, int) for each in (*numbers, *shape)):
        raise TypeError("numbers and shapes must be integers")
    raw = base64.b64decode(digests, validate=True).hex()
    step = 2 * _DIGEST_BYTES
    found = [raw[start : start + step] for start in range(0, len(raw), step)]
    names = [f"{prefix}{number}{suffix}" for number in numbers] or [prefix]
    for name, digest in zip(names, found, strict=True):
        yield TensorFingerprint(name=name, dtype=dtype, shape=tuple(shape), digest=digest)


def _base64(digests: str) -> str:
    return base64.b64encode(bytes.fromhex(digests)).decode()


def split_at_number(name: str) -> tuple[str, int | None, str]:
    """Split the name of a tensor at its first number, usually that of a layer.

    Return the text before the number, the number, and the text after it. The number is None if no
    component between dots is a number.
    """
    components = name.split(".")
    for index, component in enumerate(components):
        # A number in another notation, e.g. 007, would not survive the round trip.
        if component.isascii() and component.isdecimal() and str(int(component)) == component:
            return (
                "".join(f"{each}." for each in components[:index]),
                int(component),
                "".join(f".{each}" for each in components[index + 1 :]),
            )
    return name, None, ""
