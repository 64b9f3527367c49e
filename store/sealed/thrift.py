"""A reader of Thrift's compact protocol, in which Parquet writes its footers and page headers.

See https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md. pyarrow
allocates what a footer or a page header claims before it can be asked what that is, so they are
read here first.
"""

from typing import Any

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)
_DEPTH_MAX = 16
_TEXT_BYTES = 256
"""How much of a text is returned: enough for the name of a column."""


class ThriftError(ValueError):
    """Bytes that are not Thrift, or claim too much."""


class ThriftReader:
    """Reads structs from bytes; `elements_max` bounds the elements of all lists together.

    Raise ThriftError for bytes that are cut off, nested too deeply or have too many elements.
    """

    def __init__(self, content: bytes, elements_max: int) -> None:
        self._content = content
        self._elements = elements_max
        self.position = 0
        """Where the next value begins, in bytes."""

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Return the fields of a struct by number; texts as their first bytes."""
        if depth > _DEPTH_MAX:
            raise ThriftError("it is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            delta, kind = header >> 4, header & 0x0F
            number = number + delta if delta else self._integer()
            fields[number] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind in _INTEGERS:
            return self._integer()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind == _BINARY:
            length = self._skip(self._unsigned())
            start = self.position - length
            return self._content[start : start + min(length, _TEXT_BYTES)]
        if kind in (_BYTE, _DOUBLE):
            return self._skip(1 if kind == _BYTE else 8)
        # Parquet has no maps.
        raise ThriftError(f"it has a value of type {kind}")

    def _list(self, depth: int) -> list[Any]:
        header = self._byte()
        size, kind = header >> 4, header & 0x0F
        size = self._unsigned() if size == 0x0F else size
        self._elements -= size
        if self._elements < 0:
            raise ThriftError("it has too many elements")
        if kind in (_TRUE, _FALSE):
            return [self._byte() == _TRUE for _ in range(size)]
        return [self._value(kind, depth + 1) for _ in range(size)]

    def _skip(self, length: int) -> int:
        self.position += length
        if self.position > len(self._content):
            raise ThriftError("it is cut off")
        return length

    def _byte(self) -> int:
        self._skip(1)
        return self._content[self.position - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ThriftError("a number is too long")

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
