"""The request for kernels that give the same bits each time."""

import os
from typing import Any

import torch

from tokentape.generation.numerics.flags import WORKSPACE

DETERMINISTIC_WORKSPACE = ":4096:8"
"""The workspace of cuBLAS that torch's documentation names for deterministic results: 24 MiB."""


def use_deterministic_kernels() -> None:
    """Let torch use deterministic kernels in this process, from now on.

    torch warns of each operation that has none, and computes it nevertheless. `WORKSPACE` is set
    for cuBLAS unless the user has set it, or CUDA is initialised, after which it has no effect:
    torch warns of that, too. cuDNN no longer tries which kernel is fastest.
    """
    cuda: Any = torch.cuda
    if not cuda.is_initialized():
        os.environ.setdefault(WORKSPACE, DETERMINISTIC_WORKSPACE)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
