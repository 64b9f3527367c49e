"""Singular values and effective ranks of a weight matrix."""

from collections.abc import Iterator
from typing import Any

import torch

from tokentape.generation.errors import ToolError
from tokentape.generation.introspection.statistics import round_floats
from tokentape.generation.introspection.tensor_chunks import (
    CHUNK_NUMBERS,
    check_readable,
    dequantized,
)
from tokentape.recorder.plain_values import plain_number

# The eigenvalues of a matrix of this size take about two seconds and 32 MB.
_EXACT_ROWS_MAX = 2048
_OVERSAMPLED = 16
_ROUNDS = 6
_DIGITS = 6


def singular_values(name: str, tensor: torch.Tensor, *, top: int) -> dict[str, Any]:
    """Return the `top` largest singular values, the stable rank and the effective rank.

    The stable rank is the squared Frobenius norm divided by the squared largest singular value. The
    effective rank is the exponential of the entropy of the normalized singular values (Roy and
    Vetterli, 2007); it needs all of them and is None for a matrix with more than 2,048 rows and
    columns. Raise ToolError if the tensor is not a finite matrix.
    """
    check_readable(name, tensor)
    if tensor.dim() < 2 or 0 in tensor.shape:
        raise ToolError(f"{name} is not a matrix: its shape is {list(tensor.shape)}")
    top = plain_number(top)
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise ToolError(f"top must be an integer of at least 1, not {top!r}")
    matrix = _matrix(tensor)
    exact = min(matrix.shape) <= _EXACT_ROWS_MAX
    squares = _squares(matrix)
    if not torch.isfinite(squares):
        raise ToolError(f"{name} has values that are not finite")
    values = _exact(matrix) if exact else _largest(matrix, top)
    largest = values[0].item()
    return {
        "name": name,
        "shape": list(matrix.shape),
        "method": "exact" if exact else "randomized",
        "singular_values": round_floats(values[:top].tolist(), _DIGITS),
        "stable_rank": round_floats(squares.item() / largest**2, _DIGITS) if largest > 0 else 0.0,
        "effective_rank": round_floats(_effective_rank(values), _DIGITS) if exact else None,
        "rank_max": min(matrix.shape),
        "computed_in": "float64" if exact else "float32",
    }


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    plain: torch.Tensor = dequantized(tensor)
    return plain.detach().reshape(plain.shape[0], -1)


def _squares(matrix: torch.Tensor) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64, device=matrix.device)
    for rows in _row_blocks(matrix):
        total += rows.square().sum()
    return total


def _exact(matrix: torch.Tensor) -> torch.Tensor:
    """Return all singular values, from the eigenvalues of the smaller Gram matrix.

    Computed in float64, so that squaring loses no float32 digit.
    """
    wide = matrix if matrix.shape[0] > matrix.shape[1] else matrix.T
    side = wide.shape[1]
    products = torch.zeros(side, side, dtype=torch.float64, device=matrix.device)
    for rows in _row_blocks(wide):
        products += rows.T @ rows
    eigenvalues: torch.Tensor = torch.linalg.eigvalsh(products)
    return eigenvalues.clamp_min(0.0).sqrt().flip(0)


def _largest(matrix: torch.Tensor, top: int) -> torch.Tensor:
    """Return the largest singular values from a randomized SVD; global random state is kept."""
    size = min(top + _OVERSAMPLED, *matrix.shape)
    with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(0)
        _, values, _ = torch.svd_lowrank(matrix.float(), q=size, niter=_ROUNDS)
    return values


def _row_blocks(matrix: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield blocks of rows as float64 copies."""
    rows = max(1, CHUNK_NUMBERS // matrix.shape[1])
    for start in range(0, matrix.shape[0], rows):
        yield matrix[start : start + rows].double()


def _effective_rank(values: torch.Tensor) -> float:
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float((-(shares * shares.log()).sum()).exp()) if shares.numel() else 0.0
