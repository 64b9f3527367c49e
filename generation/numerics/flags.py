"""The flags of torch that change the last bits, each with how it is read and set.

Which kernel `scaled_dot_product_attention` runs is not recorded for each call: torch chooses it by
the enabled backends, their priority, the card, the library versions, and the shapes, dtypes and
masks of the call. All of these are recorded, the last three as the forwards of each turn.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend

from tokentape.generation.numerics.float32_precision import (
    cudnn_tf32,
    matmul_precision,
    mkldnn_conv_precision,
    set_cudnn_tf32,
    set_matmul_precision,
    set_mkldnn_conv_precision,
)

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""The environment variable that cuBLAS reads at its first call."""
_NOT_SET = "not set"


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericFlag:
    """A flag of the process that changes the numbers which torch computes."""

    name: str
    """Its key in the recorded environment."""
    cuda: bool
    """Whether it acts on CUDA only."""
    read: Callable[[], str]
    """Raise AttributeError if this release of torch lacks the flag."""
    write: Callable[[str], None]
    """Raise ValueError for a text that `read` never returns, RuntimeError if torch refuses."""
    may_set: tuple[str, ...] = ()
    """The values that a recording may set; empty for all that `write` accepts.

    A stranger's recording must not let cuBLAS reserve all memory of the card.
    """


def read_flags(*, cuda: bool) -> dict[str, str]:
    """Return the flags that this release of torch has, those of CUDA if `cuda`.

    CUDA is not initialised.
    """
    values = {flag.name: current(flag) for flag in FLAGS if cuda or not flag.cuda}
    return {name: value for name, value in values.items() if value is not None}


def current(flag: NumericFlag) -> str | None:
    """Return the value of a flag; None if this release of torch lacks it."""
    try:
        return flag.read()
    except AttributeError:
        return None


_backends: Any = torch.backends
_cuda: Any = torch.backends.cuda
_SDPA: Mapping[str, tuple[Callable[[], bool], Callable[[bool], None]]] = {
    "flash": (_cuda.flash_sdp_enabled, _cuda.enable_flash_sdp),
    "efficient": (
        _cuda.mem_efficient_sdp_enabled,
        _cuda.enable_mem_efficient_sdp,
    ),
    "math": (_cuda.math_sdp_enabled, _cuda.enable_math_sdp),
    "cudnn": (_cuda.cudnn_sdp_enabled, _cuda.enable_cudnn_sdp),
}


def _sdpa_backends() -> str:
    return " ".join(name for name, (enabled, _) in _SDPA.items() if enabled()) or "none"


def _set_sdpa_backends(names: str) -> None:
    chosen = [] if names == "none" else names.split(" ")
    if any(name not in _SDPA for name in chosen):
        raise ValueError(f"unknown attention backends: {names!r}")
    for name, (_, enable) in _SDPA.items():
        enable(name in chosen)


def _sdpa_order() -> str:
    known = {value.value: name for name, value in SDPBackend.__members__.items()}
    order = torch._C._get_sdp_priority_order()
    return " ".join(known[each].partition("_")[0].lower() for each in order)


def _set_sdpa_order(names: str) -> None:
    order, found = torch._C._get_sdp_priority_order(), _sdpa_order().split(" ")
    numbers = dict(zip(found, order, strict=True))
    chosen = names.split(" ")
    if sorted(chosen) != sorted(found):
        raise ValueError(f"not an order of this torch's attention backends: {names!r}")
    torch._C._set_sdp_priority_order([numbers[name] for name in chosen])


def _deterministic() -> str:
    if not torch.are_deterministic_algorithms_enabled():
        return "off"
    return "warn" if torch.is_deterministic_algorithms_warn_only_enabled() else "on"


def _set_deterministic(mode: str) -> None:
    if mode not in ("off", "warn", "on"):
        raise ValueError(f"no mode of deterministic algorithms: {mode!r}")
    # torch.use_deterministic_algorithms imports the compiler, which takes a second.
    torch._C._set_deterministic_algorithms(mode != "off", warn_only=mode == "warn")


def _blas_library() -> str:
    return str(_cuda.preferred_blas_library()).partition(".")[2].partition(":")[0].lower()


def _set_blas_library(name: str) -> None:
    if name not in _cuda._BlasBackends:
        raise ValueError(f"unknown BLAS library: {name!r}")
    _cuda.preferred_blas_library(name)


def _set_workspace(value: str) -> None:
    cuda: Any = torch.cuda
    if cuda.is_initialized():
        raise RuntimeError(f"{WORKSPACE} has no effect once CUDA is initialised")
    if value == _NOT_SET:
        os.environ.pop(WORKSPACE, None)
    else:
        os.environ[WORKSPACE] = value


def _reduction(dtype: str) -> NumericFlag:
    """Return the flag of sums in 16 bits within a matrix product of that type.

    Newer releases of torch have a third state: neither such sums nor a split of the product.
    """
    name = f"allow_{dtype}_reduced_precision_reduction"

    def read() -> str:
        found = getattr(torch._C, f"_get_cublas_{name}")()
        allowed, split = found if isinstance(found, tuple) else (found, True)
        return _on(allowed) if split else "off, no split"

    def write(value: str) -> None:
        unsplit = value == "off, no split"
        setattr(_cuda.matmul, name, (False, False) if unsplit else _switched(value))

    return NumericFlag(name=f"{dtype}_reduction", cuda=True, read=read, write=write)


def _on(value: bool) -> str:
    return "on" if value else "off"


def _switched(value: str) -> bool:
    if value not in ("on", "off"):
        raise ValueError(f"a flag is on or off, not {value!r}")
    return value == "on"


def _switch(
    name: str, read: Callable[[], bool], write: Callable[[bool], object], *, cuda: bool
) -> NumericFlag:
    """Return a flag that is on or off."""

    def set_switch(value: str) -> None:
        write(_switched(value))

    return NumericFlag(name=name, cuda=cuda, read=lambda: _on(read()), write=set_switch)


def _attribute(name: str, module: Any, attribute: str, *, cuda: bool) -> NumericFlag:
    """Return the flag that an attribute of one of torch's modules is."""
    return _switch(
        name,
        lambda: getattr(module, attribute),
        lambda value: setattr(module, attribute, value),
        cuda=cuda,
    )


FLAGS = (
    NumericFlag(
        name="float32_matmul", cuda=False, read=matmul_precision, write=set_matmul_precision
    ),
    NumericFlag(
        name="mkldnn_conv",
        cuda=False,
        read=mkldnn_conv_precision,
        write=set_mkldnn_conv_precision,
    ),
    _attribute("mkldnn", _backends.mkldnn, "enabled", cuda=False),
    _attribute("mkldnn_deterministic", _backends.mkldnn, "deterministic", cuda=False),
    NumericFlag(name="sdpa_backends", cuda=False, read=_sdpa_backends, write=_set_sdpa_backends),
    _switch(
        "sdpa_math_reduction",
        _cuda.fp16_bf16_reduction_math_sdp_allowed,
        _cuda.allow_fp16_bf16_reduction_math_sdp,
        cuda=False,
    ),
    NumericFlag(name="deterministic", cuda=False, read=_deterministic, write=_set_deterministic),
    NumericFlag(name="sdpa_order", cuda=True, read=_sdpa_order, write=_set_sdpa_order),
    _reduction("fp16"),
    _reduction("bf16"),
    _attribute("fp16_accumulation", _cuda.matmul, "allow_fp16_accumulation", cuda=True),
    NumericFlag(name="blas_library", cuda=True, read=_blas_library, write=_set_blas_library),
    _attribute("cudnn_enabled", _backends.cudnn, "enabled", cuda=True),
    _switch("cudnn_tf32", cudnn_tf32, set_cudnn_tf32, cuda=True),
    _attribute("cudnn_deterministic", _backends.cudnn, "deterministic", cuda=True),
    _attribute("cudnn_benchmark", _backends.cudnn, "benchmark", cuda=True),
    NumericFlag(
        name=WORKSPACE,
        cuda=True,
        read=lambda: os.environ.get(WORKSPACE, _NOT_SET),
        write=_set_workspace,
        may_set=(":4096:8", ":16:8", ":4096:2:16:8", ":0:0", _NOT_SET),
    ),
)
"""All flags; the order is that in which they are set."""
