"""The binary encoding of SSH: strings with a length before them (RFC 4251, section 5)."""

import base64
import struct

from tokentape.recorder import TokentapeError

_UINT32 = struct.Struct(">I")


class SignatureError(TokentapeError):
    """A key, a signature or a file of signers cannot be read or used."""


def pack_strings(*strings: bytes) -> bytes:
    """Return strings with the length of each before it."""
    return b"".join(_UINT32.pack(len(each)) + each for each in strings)


class WireReader:
    """Reads fields one after the other. Raise SignatureError where the data ends too early."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self._at = data, what, 0

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if count > len(self._data) - self._at:
            raise SignatureError(f"{self._what} is cut off")
        self._at += count
        return self._data[self._at - count : self._at]

    def uint32(self) -> int:
        """Return the next number."""
        return int(_UINT32.unpack(self.take(_UINT32.size))[0])

    def string(self) -> bytes:
        """Return the next string."""
        return self.take(self.uint32())

    def text(self) -> str:
        """Return the next string, which must be printable ASCII."""
        found = self.string()
        if not found.isascii() or not found.decode().isprintable():
            raise SignatureError(f"{self._what} has a name that is not printable ASCII")
        return found.decode()

    def finish(self) -> None:
        """Raise SignatureError if anything is left."""
        if self._at != len(self._data):
            raise SignatureError(f"{self._what} has {len(self._data) - self._at} bytes too many")


def from_base64(text: str, what: str) -> bytes:
    """Return the bytes of a base64 text. Raise SignatureError for anything else."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise SignatureError(f"{what} is not base64") from None
