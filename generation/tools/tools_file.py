"""A Python file with tools of one's own: read and compiled, then run when its tools are needed."""

import contextlib
import hashlib
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokentape.generation.errors import ToolError, ToolsFileError
from tokentape.generation.tools.declaration import declared_limits
from tokentape.recorder.foreign_files import pointer_file
from tokentape.recorder.paths import expand_path
from tokentape.recorder.regular_file import read_regular

if TYPE_CHECKING:
    from tokentape.generation.models.loading import LoadedModel
    from tokentape.generation.tools.interface import ToolInterface

MAKE_TOOLS = "make_tools"
_BYTES_MAX = 4 * 1024**2
_HOW = f"write @tt.tool above a function, or a function {MAKE_TOOLS}(lm) that returns tools"


@dataclass(slots=True)
class ToolsFile:
    """A Python file with tools. Its code runs when its tools are first needed, and only once.

    Its tools are the functions of its namespace that `@tt.tool` declares, then those that its
    function `make_tools(lm)` returns: a list of functions, or a ToolInterface.
    """

    path: Path
    sha256: str
    """The sha256 of the source; the code that runs is compiled from the same bytes."""
    code: types.CodeType
    _module: types.ModuleType | None = field(default=None, init=False)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "ToolsFile":
        """Read and compile a file. Raise ToolsFileError if it is missing or not Python."""
        path = expand_path(path)
        if path.is_dir():
            raise ToolsFileError(f"{path} is a folder: name a Python file with tools")
        try:
            if pointer := pointer_file(path):
                raise ToolsFileError(f"{path} {pointer}")
            source = read_regular(path, _BYTES_MAX)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ToolsFileError(f"cannot read the tools in {path}: {reason}") from None
        try:
            code = compile(source, str(path.absolute()), "exec", dont_inherit=True)
        except SyntaxError as error:
            line = "" if error.lineno is None else f", line {error.lineno}"
            raise ToolsFileError(f"{path}{line}: {error.msg}") from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise ToolsFileError(f"{path} is not Python: {error}") from None
        return cls(path, hashlib.sha256(source).hexdigest(), code)

    @property
    def name(self) -> str:
        return self.path.name

    def run(self) -> types.ModuleType:
        """Run the code of the file, once, and return its module.

        Modules next to the file can be imported. Raise ToolsFileError, with file and line, if it
        raises an exception, and if it has no tools.
        """
        if self._module is not None:
            return self._module
        filename = self.code.co_filename
        module = types.ModuleType("tokentape_tools_" + re.sub(r"\W", "_", self.path.stem))
        module.__file__ = filename
        sys.modules[module.__name__] = module  # dataclasses look their module up
        if (folder := str(Path(filename).parent)) not in sys.path:
            sys.path.append(folder)  # last: a file next to it must not replace a library
        with self._errors():
            exec(self.code, module.__dict__)
        if not self._declared(module) and not callable(getattr(module, MAKE_TOOLS, None)):
            own = [
                each.__name__
                for each in vars(module).values()
                if isinstance(each, types.FunctionType) and each.__module__ == module.__name__
            ]
            found = f" above {own[0]}" if own else ""
            raise ToolsFileError(
                f"{self.path} has no tools: "
                + (_HOW if not found else _HOW.replace(" above a function", found))
            )
        self._module = module
        return module

    def tools(self, lm: "LoadedModel | None") -> "ToolInterface":
        """Return the tools of the file; without a model, only the declared functions.

        Raise ToolsFileError if they cannot be tools, or if two have the same name.
        """
        from tokentape.generation.tools.interface import ToolInterface

        module = self.run()
        try:
            tools = ToolInterface(self._declared(module))
            make = getattr(module, MAKE_TOOLS, None)
            if lm is not None and callable(make):
                with self._errors():
                    made = make(lm)
                if not isinstance(made, ToolInterface):
                    if not isinstance(made, list | tuple):
                        raise ToolsFileError(
                            f"{self.path}: {MAKE_TOOLS} returned {type(made).__name__}, not a "
                            "list of functions or a ToolInterface"
                        )
                    made = ToolInterface(made)
                tools = tools.including(made)
        except ToolError as error:
            raise ToolsFileError(f"{self.path}: {error}") from error
        if lm is not None and not tools.names:
            raise ToolsFileError(f"{self.path} has no tools: {MAKE_TOOLS} returned none")
        return tools.in_file(self.name, self.sha256)

    def _declared(self, module: types.ModuleType) -> list[Callable[..., Any]]:
        """Return the functions that are declared as tools, once each, in the order of the file."""
        declared = {
            id(each): each
            for each in vars(module).values()
            if isinstance(each, types.FunctionType) and declared_limits(each) is not None
        }
        return list(declared.values())

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn an exception of the file's code into ToolsFileError, with the line of the file."""
        try:
            yield
        except (KeyboardInterrupt, ToolsFileError):
            raise
        except BaseException as error:  # a program may also end itself
            frames = traceback.extract_tb(error.__traceback__)
            lines = [each.lineno for each in frames if each.filename == self.code.co_filename]
            line = f", line {lines[-1]}" if lines else ""
            text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise ToolsFileError(f"{self.path}{line}: {' '.join(text.split())}") from error


def load_tools(path: str | os.PathLike[str], lm: "LoadedModel | None" = None) -> "ToolInterface":
    """Run a Python file and return its tools, as `--tools FILE` of the command line does.

    They are the functions that `@tt.tool` declares and, with a model, those that the file's
    function `make_tools(lm)` returns. A run records the name of the file and its sha256. Raise
    ToolsFileError, with file and line, for a file that cannot be used.

    Example:
        >>> import tokentape as tt
        >>> path = tmp_path / "my_tools.py"
        >>> _ = path.write_text('''
        ... import tokentape as tt
        ...
        ... @tt.tool
        ... def double(number: int) -> int:
        ...     \"\"\"Double a number.
        ...
        ...     Args:
        ...         number: Any integer.
        ...     \"\"\"
        ...     return 2 * number
        ... ''')
        >>> tt.load_tools(path).call("double", {"number": 21}).content
        '42'
    """
    return ToolsFile.read(path).tools(lm)
