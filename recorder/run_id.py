"""Run ids: UUID version 7, which sorts by the time it was made (RFC 9562, section 5.7)."""

import uuid


def uuid7(at_ns: int, random_bytes: bytes) -> str:
    """The id for a moment in nanoseconds since 1970 and ten random bytes."""
    bits = (at_ns // 1_000_000) << 80 | int.from_bytes(random_bytes[:10])
    bits = bits & ~(0xF << 76) | 0x7 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=bits))
