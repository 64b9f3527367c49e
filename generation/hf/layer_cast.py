"""Computation in a wider dtype than that of the weights, which are cast as they are used."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.packed_tensors import has_packed_weights
from tokentape.generation.hf.scratch import Scratch
from tokentape.recorder.near_names import nearest


def compute_dtype(model: Any) -> torch.dtype:
    """Return the dtype that a model computes in, which its KV cache and its logits have.

    It is that of the weights, unless `compute_in` chose a wider one.
    """
    dtype: torch.dtype = model.dtype
    return dtype


def weights_dtype(model: Any) -> torch.dtype:
    """Return the dtype that the weights are stored in: that of the first floating-point one."""
    dtypes = (each.dtype for each in model.parameters() if each.is_floating_point())
    return next(dtypes, compute_dtype(model))


def largest_cast_bytes(model: Any) -> int:
    """Return the bytes of the largest weight after its cast; 0 if weights are not cast."""
    dtype = compute_dtype(model)
    narrow = (each for each in model.parameters() if each.is_floating_point())
    return max((each.numel() * dtype.itemsize for each in narrow if each.dtype != dtype), default=0)


def check_dtypes(weights: str, computation: str) -> None:
    """Raise ModelError for a name of no dtype, or if weights cannot be computed with in another.

    `auto`, the dtype of a checkpoint, is not known before the model is loaded.
    """
    dtypes = [_dtype_named(each) for each in (weights, computation) if each != "auto"]
    if len(dtypes) == 2:
        _check_wider(dtypes[1], dtypes[:1])


def compute_in(model: nn.Module, name: str) -> None:
    """Make a model compute in the dtype `name`, in place; the weights stay as they are stored.

    Within a forward, a weight that a module reads (`self.weight`) is a new tensor of that dtype,
    which lives as long as it is used. Logits and cache equal those after `model.to(dtype)`, bit
    for bit. Outside of forwards a weight reads as it is stored, and may be
    changed. The classes of the modules are replaced by subclasses with the same name; there are no
    hooks. Buffers that are not saved are cast once.
    Raise ModelError if a weight has a wider dtype, or if the weights are quantized.

    Source: LayerCast, arXiv 2506.09501.
    """
    dtype = _dtype_named(name)
    quantized = getattr(getattr(model, "config", None), "quantization_config", None)
    if quantized is not None or has_packed_weights(model):
        raise ModelError(f"quantized weights cannot be computed with in {name}")
    _check_wider(dtype, {each.dtype for each in model.parameters() if each.is_floating_point()})
    for module in list(model.modules()):
        for buffer, tensor in module._buffers.items():
            unsaved = buffer in module._non_persistent_buffers_set
            if unsaved and tensor is not None and tensor.is_floating_point():
                module._buffers[buffer] = tensor.to(dtype)
        kind: Any = type(module)
        module.__class__ = _casting_class(kind, dtype)


def stored_class(kind: type[Any]) -> type[Any]:
    """Return the class that a module had before `compute_in` replaced it, else its class."""
    plain: type[Any] = getattr(kind, "_stored_class", kind)
    return plain


def _dtype_named(name: Any) -> torch.dtype:
    dtype = name if isinstance(name, torch.dtype) else getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        near = nearest(name, ("float32", "bfloat16", "float16", "float64", "auto"))
        known = "is not a floating-point dtype of torch, such as 'float32'"
        raise ModelError(f"{name!r} {known}{near}")
    return dtype


def _check_wider(dtype: torch.dtype, weights: Iterable[torch.dtype]) -> None:
    for stored in weights:
        if not _widens(stored, dtype):
            names = f"{stored} weights cannot be computed with in {dtype}".replace("torch.", "")
            raise ModelError(f"{names}, which does not hold all their values: choose a wider dtype")


def _widens(stored: torch.dtype, dtype: torch.dtype) -> bool:
    try:
        return torch.promote_types(stored, dtype) == dtype
    except RuntimeError:  # dtypes of 8 bits are not promoted
        return False


@contextmanager
def keeping_scratch() -> Iterator[None]:
    """Within this context, keep the memory of large casts from one forward to the next.

    It belongs to this thread. Outside, it is kept during one forward.
    """
    before = _forwards.keeps_scratch
    _forwards.keeps_scratch = True
    try:
        yield
    finally:
        _forwards.keeps_scratch = before
        if not before:
            _forwards.scratch.clear()


class _Forwards(threading.local):
    """The forwards of modules with cast weights that run in this thread."""

    def __init__(self) -> None:
        self.depth = 0
        self.scratch = Scratch()
        self.keeps_scratch = False


_forwards = _Forwards()


@cache
def _casting_class(kind: type[Any], dtype: torch.dtype) -> type[Any]:
    """Return a subclass whose modules cast their weights to `dtype` within forwards.

    It has the same name, so that a model still counts as one of transformers. Its only base is the
    class itself: torch modules accept no other layout.
    """
    plain = stored_class(kind)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        _forwards.depth += 1
        try:
            return plain.__call__(self, *args, **kwargs)
        finally:
            _forwards.depth -= 1
            if not _forwards.depth and not _forwards.keeps_scratch:
                _forwards.scratch.clear()

    def getattr_(self: Any, name: str) -> Any:
        # Called for parameters, buffers and modules, which are not ordinary attributes.
        value = plain.__getattr__(self, name)
        if _forwards.depth and isinstance(value, torch.Tensor) and value.is_floating_point():
            return _cast(self, value, dtype)
        return value

    names = {each: getattr(plain, each) for each in ("__module__", "__qualname__", "__doc__")}
    own: dict[str, Any] = {"__call__": call, "__getattr__": getattr_, "_stored_class": plain}
    if hasattr(plain, "save_pretrained") and isinstance(plain.dtype, property):
        own |= _model_methods(plain, dtype)
    metaclass: Any = type(plain)
    casting: type[Any] = metaclass(plain.__name__, (plain,), names | own)
    return casting


def _model_methods(plain: type[Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return methods for models of transformers, which create caches and masks in their `dtype`.

    Saving writes it into the config, where it must be that of the weights.
    """

    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> Any:
        vars(self)["_saves"] = True
        try:
            return plain.save_pretrained(self, *args, **kwargs)
        finally:
            del vars(self)["_saves"]

    def dtype_of(self: Any) -> torch.dtype:
        return plain.dtype.__get__(self) if "_saves" in vars(self) else dtype

    return {"save_pretrained": save_pretrained, "dtype": property(dtype_of)}


def _cast(module: Any, stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if stored.dtype == dtype:
        return stored
    if isinstance(module, nn.Embedding) or _holds_experts(module, stored):
        lazy = stored.as_subclass(_LazyCast)
        lazy.wide = dtype
        return lazy
    return _whole(stored, dtype)


def _holds_experts(module: Any, stored: torch.Tensor) -> bool:
    """Return whether a forward may use only some of the matrices of a weight."""
    return stored.dim() > 2 and not type(module)._stored_class.__module__.startswith("torch.")


def _whole(stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return all of a weight in `dtype`.

    It requires gradients if the stored one does, also where none are recorded: `torch.matmul`
    chooses its kernel by it.
    """
    cast = _forwards.scratch.cast(stored, dtype)
    if stored.requires_grad and not cast.requires_grad:
        cast.requires_grad_()
    return cast


class _LazyCast(torch.Tensor):
    """A stored weight that appears in a wider dtype; selected rows are cast after the selection.

    Everything that a function of torch is called with is cast as a whole, except for what reads
    neither elements nor memory.
    """

    wide: torch.dtype

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call `func` with cast weights in place of the stored ones."""
        kwargs = kwargs or {}
        source = next((each for each in args[:2] if type(each) is cls), None)
        with torch._C.DisableTorchFunctionSubclass():
            # Getters are compared by value: each is a new object.
            if func == _DTYPE:
                return args[0].wide
            if func in _METADATA:
                return func(*args, **kwargs)
            if func in _SELECTIONS and source is not None and not kwargs.get("max_norm"):
                plain = source.as_subclass(torch.Tensor)
                rows = func(*(plain if each is source else each for each in args), **kwargs)
                return rows.to(source.wide)
            args, kwargs = tree_map_only(cls, cls._cast, (args, kwargs))
            return func(*args, **kwargs)

    def _cast(self) -> torch.Tensor:
        return _whole(self.as_subclass(torch.Tensor), self.wide)


# Getters of properties, which torch passes as functions.
_TENSOR: Any = torch.Tensor
_DTYPE = _TENSOR.dtype.__get__
_METADATA = (
    _TENSOR.shape.__get__,
    _TENSOR.device.__get__,
    _TENSOR.ndim.__get__,
    _TENSOR.requires_grad.__get__,
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.numel,
    torch.Tensor.is_floating_point,
)
_SELECTIONS = (functional.embedding, torch.Tensor.__getitem__, torch.Tensor.index_select)
