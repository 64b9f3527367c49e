"""Quantization configs of transformers, from short names, mappings and the configs themselves."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.quanto import unpack_without_compiling
from tokentape.generation.models.model_names import check_quantization_name
from tokentape.generation.models.quiet import quiet_loading

# The distributions whose versions decide how weights are packed.
_PACKERS = ("torchao", "optimum-quanto", "hqq", "gptqmodel", "bitsandbytes", "compressed-tensors")
_EXTRA = 'pip install "tokentape[quantization]"'
# The module and the installation of each method that needs a package of its own.
_PACKAGES = {
    "quanto": ("optimum.quanto", _EXTRA),
    "torchao": ("torchao", _EXTRA),
    "hqq": ("hqq", "pip install hqq"),
    "gptq": ("gptqmodel", "pip install gptqmodel"),
    "awq": ("gptqmodel", "pip install gptqmodel"),
    "bitsandbytes": ("bitsandbytes", "pip install bitsandbytes"),
    "compressed-tensors": ("compressed_tensors", "pip install compressed-tensors"),
    "eetq": ("eetq", "pip install eetq"),
    "aqlm": ("aqlm", "pip install aqlm"),
    "vptq": ("vptq", "pip install vptq"),
}


def quantization_config(given: object) -> Any:
    """Return the quantization config of transformers that the user gave; None without one.

    It may be a short name of `QUANTO_WEIGHTS`, a mapping with `quant_method` (or `load_in_8bit` or
    `load_in_4bit`, for bitsandbytes), or a config object. Raise ModelError if it is none of these,
    is not valid, or needs a package that is not installed.
    """
    if given is None or given == "":
        return None
    if isinstance(given, str):
        check_quantization_name(given)
        given = {"quant_method": "quanto", "weights": given}
    if isinstance(given, Mapping):
        described = dict(given)
        in_bits = described.get("load_in_8bit") or described.get("load_in_4bit")
        check_installed("bitsandbytes" if in_bits else str(described.get("quant_method", "")))
        # It imports torchao where that is installed, which takes a second and prints warnings.
        with quiet_loading():
            from transformers.quantizers.auto import AutoQuantizationConfig
        try:
            return AutoQuantizationConfig.from_dict(described)
        except Exception as error:  # each method has errors of its own
            raise ModelError(f"quantization {described} is not valid: {error}") from None
    if not hasattr(given, "quant_method") or not hasattr(given, "to_dict"):
        raise ModelError(
            "quantization is a short name, a mapping or a quantization config of transformers, "
            f"not {type(given).__name__}"
        )
    check_installed(_method_of(given))
    return given


def check_checkpoint(config: Any) -> None:
    """Raise ModelError if a model's config is quantized by a package that is not installed."""
    described = getattr(config, "quantization_config", None)
    if isinstance(described, Mapping):
        check_installed(str(described.get("quant_method", "")))


def check_installed(method: str) -> None:
    """Raise ModelError if the package that quantizes by a method is not installed.

    If it is quanto, have it compile nothing.
    """
    if method == "quanto":
        unpack_without_compiling()
    module, install = _PACKAGES.get(method.removesuffix("_8bit").removesuffix("_4bit"), ("", ""))
    if module and not _is_installed(module):
        raise ModelError(
            f"quantization by {method} needs the package {module}, which is not installed: "
            f"{install}"
        )


def quantizer_versions() -> dict[str, str]:
    """Return the installed versions of the packages that pack weights."""
    found = {}
    for name in _PACKERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _method_of(config: Any) -> str:
    return str(getattr(config.quant_method, "value", config.quant_method))


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # the parent package is missing
        return False
