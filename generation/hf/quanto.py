"""quanto without its C++ extension, which it compiles at the first use of int4 or int2."""

from types import SimpleNamespace
from typing import Any

import torch


def unpack_without_compiling() -> None:
    """Let quanto unpack int4 and int2 on a CPU by torch, and not by an extension.

    The extension calls the same operations. To compile it takes a compiler and up to a minute, and
    a process that is killed meanwhile leaves a lock, for which every later one waits for ever. One
    that is loaded already is left alone. Do nothing if quanto is not installed.
    """
    try:
        from optimum.quanto.library.extensions.cpp import ext
    except ImportError:
        return
    extension: Any = ext
    if getattr(extension, "_lib", None) is None:
        extension._lib = SimpleNamespace(unpack=_unpack)


def _unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the numbers of uint8 that hold several each, the lowest bits of all first."""
    mask = 2**bits - 1
    return torch.cat([(packed >> shift) & mask for shift in range(0, 8, bits)])
