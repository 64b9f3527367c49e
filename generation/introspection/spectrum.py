"""Singular values of a weight matrix, and how many directions it really has."""

from collections.abc import Iterator
from typing import Any

import torch

from tokentape.generation.errors import ToolError
from tokentape.generation.introspection.chunks import CHUNK_NUMBERS, refuse_unreadable
from tokentape.generation.introspection.rounding import rounded

# Eigenvalues of a matrix of so many rows take some two seconds, and 32 MB.
_EXACT_ROWS_MAX = 2048
_OVERSAMPLED = 16
_ROUNDS = 6
_DIGITS = 6


def singular_values(name: str, tensor: torch.Tensor, *, top: int) -> dict[str, Any]:
    """The `top` largest, stable rank (squared Frobenius norm by squared largest), effective rank.

    The effective rank is the exponential of the entropy of the singular values; it needs all of
    them and is None for a matrix that is too large. Raises ToolError for what is no finite matrix.
    """
    refuse_unreadable(name, tensor)
    if tensor.dim() < 2 or 0 in tensor.shape:
        raise ToolError(f"{name} is no matrix: its shape is {list(tensor.shape)}")
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise ToolError(f"top must be a whole number of at least one: {top!r}")
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
        "singular_values": rounded(values[:top].tolist(), _DIGITS),
        "stable_rank": rounded(squares.item() / largest**2, _DIGITS) if largest > 0 else 0.0,
        "effective_rank": rounded(_effective_rank(values), _DIGITS) if exact else None,
        "rank_max": min(matrix.shape),
        "computed_in": "float64" if exact else "float32",
    }


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    plain: torch.Tensor = tensor.dequantize() if tensor.is_quantized else tensor
    return plain.detach().reshape(plain.shape[0], -1)


def _squares(matrix: torch.Tensor) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64, device=matrix.device)
    for rows in _row_blocks(matrix):
        total += rows.square().sum()
    return total


def _exact(matrix: torch.Tensor) -> torch.Tensor:
    """All of them, from the products of rows (or columns, if those are fewer) with each other.

    In float64, so that the square costs no digit that float32 had.
    """
    wide = matrix if matrix.shape[0] > matrix.shape[1] else matrix.T
    side = wide.shape[1]
    products = torch.zeros(side, side, dtype=torch.float64, device=matrix.device)
    for rows in _row_blocks(wide):
        products += rows.T @ rows
    eigenvalues: torch.Tensor = torch.linalg.eigvalsh(products)
    return eigenvalues.clamp_min(0.0).sqrt().flip(0)


def _largest(matrix: torch.Tensor, top: int) -> torch.Tensor:
    """Of a random sketch, refined; the caller's random stream is left where it is."""
    size = min(top + _OVERSAMPLED, *matrix.shape)
    with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
        torch.manual_seed(0)
        _, values, _ = torch.svd_lowrank(matrix.float(), q=size, niter=_ROUNDS)
    return values


def _row_blocks(matrix: torch.Tensor) -> Iterator[torch.Tensor]:
    """Float64 copies of some rows at a time."""
    rows = max(1, CHUNK_NUMBERS // matrix.shape[1])
    for start in range(0, matrix.shape[0], rows):
        yield matrix[start : start + rows].double()


def _effective_rank(values: torch.Tensor) -> float:
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float((-(shares * shares.log()).sum()).exp()) if shares.numel() else 0.0
