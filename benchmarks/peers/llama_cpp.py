"""llama.cpp with the demo model: its GGUF file, and the same weights as float32."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch

from benchmarks.peers.token_times import TokenTimes
from benchmarks.peers.workload import SAMPLING, DecodeTask
from benchmarks.rivals.environment import Rival, RivalMissingError, python_of, run_rival
from tokentape.generation.models.model_files import is_gguf
from tokentape.generation.models.model_names import demo_wheel

LLAMA_CPP = Rival(name="llama.cpp", module="llama_server", needs="llama_cpp.txt")
# Fields that the writer sets itself, or that describe how the tensors were quantised.
_NOT_COPIED = ("general.architecture", "general.file_type", "general.quantization_version")


class LlamaCpp:
    """llama.cpp in an environment of its own, with one GGUF file."""

    def __init__(self, python: Path, model: Path) -> None:
        self._python = python
        self._model = model

    @classmethod
    def install(cls, model: Path, home: Path, notify: Callable[[str], None]) -> "LlamaCpp":
        """Install the wheel the first time. Raise RivalMissingError if it cannot be installed."""
        return cls(python_of(LLAMA_CPP, home, notify), model)

    def run(
        self, tasks: Sequence[DecodeTask], new_tokens: int, *, greedy: bool = False
    ) -> TokenTimes:
        """Decode all tasks at once in a new process; loading the model is not timed.

        Raise RivalMissingError if the process fails, or does not return all tokens.
        """
        task = {
            "model": str(self._model),
            "prompts": [list(each.ids) for each in tasks],
            "seeds": [each.seed for each in tasks],
            "new_tokens": new_tokens,
            "threads": torch.get_num_threads(),
            "temperature": 0.0 if greedy else SAMPLING["temperature"],
            "top_p": SAMPLING["top_p"],
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "task.json"
            path.write_text(json.dumps(task), encoding="utf-8")
            result = json.loads(run_rival(LLAMA_CPP, self._python, path, Path(folder)))
        counts = {len(each) for each in result["at_s"]}
        if counts != {new_tokens}:
            raise RivalMissingError(f"llama.cpp returned {counts} of {new_tokens} tokens")
        at_s = tuple(tuple(each) for each in result["at_s"])
        return TokenTimes(began_s=0.0, ended_s=result["seconds"], at_s=at_s)


def demo_gguf() -> Path:
    """Return the demo model's GGUF file. Raise ModelError if it is not installed."""
    files = demo_wheel().files or []
    return next(Path(str(each.locate())) for each in files if is_gguf(each.name))


def float32_copy(source: Path, home: Path, notify: Callable[[str], None]) -> Path:
    """Return a copy of a GGUF file with all tensors in float32, made the first time."""
    made = home / f"{source.stem}-float32.gguf"
    if not made.is_file():
        notify(f"writing {made}, once")
        made.parent.mkdir(parents=True, exist_ok=True)
        unfinished = made.with_suffix(f".{os.getpid()}")
        try:
            _write_float32(source, unfinished)
            unfinished.replace(made)
        finally:
            unfinished.unlink(missing_ok=True)
    return made


def _write_float32(source: Path, target: Path) -> None:
    read: Any = gguf.GGUFReader(source)
    written: Any = gguf.GGUFWriter(target, read.fields["general.architecture"].contents())
    for field in read.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in _NOT_COPIED:
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            written.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    written.add_file_type(int(gguf.LlamaFileType.ALL_F32))
    for tensor in read.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        written.add_tensor(tensor.name, values.astype(numpy.float32))
    written.write_header_to_file()
    written.write_kv_data_to_file()
    written.write_tensors_to_file()
    written.close()
