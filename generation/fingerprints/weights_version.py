"""A cheap sign, within one process, that the weights of a model have changed."""

import itertools
import threading
import weakref
from typing import Any

import torch

from tokentape.generation.hf.packed_tensors import held_tensors


def weights_version(model: Any) -> str:
    """Return a text that changes when a parameter or buffer is replaced or written to in place.

    It reads torch's counter of in-place writes, not the numbers. Writes through `.data` are not
    counted by torch and therefore not noticed. Packed weights count as the tensors that hold them.
    """
    versions = (
        (_serial(tensor), tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version)
        for each in (*model.parameters(), *model.buffers())
        for _, tensor in held_tensors(each)
    )
    return str(hash(tuple(versions)))


_serials: dict[int, tuple[weakref.ref[torch.Tensor], int]] = {}
_next_serial = itertools.count()
_serials_lock = threading.Lock()


def _serial(tensor: torch.Tensor) -> int:
    """Return a number that identifies the tensor: `id()` and addresses are reused."""
    known = _serials.get(id(tensor))
    if known is not None and known[0]() is tensor:
        return known[1]
    with _serials_lock:
        known = _serials.get(id(tensor))
        if known is None or known[0]() is not tensor:
            known = (weakref.ref(tensor), next(_next_serial))
            _serials[id(tensor)] = known
        return known[1]
