"""The precision that torch computes float32 in, which torch 2.9 gave a second interface.

The two interfaces share their state. Where they contradict each other, torch raises an error in
the middle of a forward, so the first is used wherever it can say the same.
"""

import re
import warnings

import torch

_MATMUL = {
    "highest": ("ieee", "ieee"),
    "high": ("tf32", "tf32"),
    "medium": ("tf32", "bf16"),
}
"""Names of `torch.set_float32_matmul_precision`, each with the precisions on CUDA and of oneDNN."""
_MIXED = re.compile(r"cuda (ieee|tf32), mkldnn (ieee|tf32|bf16)")


def matmul_precision() -> str:
    """Return the precision of matrix products: a name of torch, or that of CUDA and of oneDNN."""
    if not hasattr(torch._C, "_get_fp32_precision_getter"):
        return torch.get_float32_matmul_precision()
    both = _precision("cuda", "matmul"), _precision("mkldnn", "matmul")
    names = [name for name, value in _MATMUL.items() if value == both]
    return names[0] if names else f"cuda {both[0]}, mkldnn {both[1]}"


def set_matmul_precision(name: str) -> None:
    """Set what `matmul_precision` returned. Raise ValueError for another text."""
    mixed = _MIXED.fullmatch(name)
    if name not in _MATMUL and mixed is None:
        raise ValueError(f"no precision of matrix products: {name!r}")
    cuda, mkldnn = _MATMUL[name] if mixed is None else (mixed[1], mixed[2])
    if mixed is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some releases call this interface deprecated
            torch.set_float32_matmul_precision(name)
    if hasattr(torch._C, "_set_fp32_precision_setter"):
        _set_precision("cuda", "matmul", cuda)
        _set_precision("mkldnn", "matmul", mkldnn)


def mkldnn_conv_precision() -> str:
    """Return the precision of oneDNN's convolutions. Raise AttributeError before torch 2.9."""
    return _precision("mkldnn", "conv")


def set_mkldnn_conv_precision(name: str) -> None:
    """Set the precision of oneDNN's convolutions. Raise ValueError for an unknown one."""
    if name not in ("ieee", "tf32", "bf16"):
        raise ValueError(f"no precision of convolutions: {name!r}")
    _set_precision("mkldnn", "conv", name)


def cudnn_tf32() -> bool:
    """Return whether cuDNN's convolutions compute float32 in TF32."""
    if hasattr(torch._C, "_get_fp32_precision_getter"):
        return _precision("cuda", "conv") == "tf32"
    return bool(torch.backends.cudnn.allow_tf32)


def set_cudnn_tf32(allowed: bool) -> None:
    """Allow or forbid TF32 in cuDNN's convolutions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = allowed
    if hasattr(torch._C, "_set_fp32_precision_setter"):
        _set_precision("cuda", "conv", "tf32" if allowed else "ieee")


def _precision(backend: str, operation: str) -> str:
    found = torch._C._get_fp32_precision_getter(backend, operation)
    return "ieee" if found == "none" else str(found)


def _set_precision(backend: str, operation: str, name: str) -> None:
    """Set a precision, if possible by leaving it to torch's general one (`none`)."""
    torch._C._set_fp32_precision_setter(backend, operation, "none")
    if _precision(backend, operation) != name:
        torch._C._set_fp32_precision_setter(backend, operation, name)
