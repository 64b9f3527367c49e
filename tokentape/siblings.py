"""The folders beside this one have common names; make sure that they are ours."""

import importlib.util
import sys
from pathlib import Path

SIBLINGS = ("recorder", "generation", "store", "migrations", "replay")


def refuse_strangers() -> None:
    """Raise ImportError where another package of the same name hides one of ours."""
    home = Path(__file__).resolve().parent.parent
    for name in SIBLINGS:
        found = _location(name)
        if found is None:
            raise ImportError(
                f"tokentape's package {name!r} is not installed beside it in {home}: "
                "reinstall tokentape"
            )
        if found not in (home / name, home / name / "__init__.py"):
            raise ImportError(
                f"{found} hides tokentape's own package {name!r}: run with `python -P`, start in "
                "another folder, or rename it"
            )


def _location(name: str) -> Path | None:
    """The file that `import name` runs, or ran; for a package without `__init__.py` its folder."""
    if name in sys.modules:
        module = sys.modules[name]
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    else:
        spec = importlib.util.find_spec(name)
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    known = [place for place in places if place]
    return Path(known[0]).resolve() if known else None
