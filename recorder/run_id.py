"""Run ids: UUIDs of version 7, which sort by the time of their creation (RFC 9562, section 5.7)."""

import uuid


def uuid7(at_us: int, random_bytes: bytes) -> str:
    """Return the id for a time in microseconds since 1970 and ten random bytes."""
    bits = (at_us // 1_000) << 80 | int.from_bytes(random_bytes[:10])
    bits = bits & ~(0xF << 76) | 0x7 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=bits))
