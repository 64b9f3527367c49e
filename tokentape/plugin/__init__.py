"""The pytest plugin behind `--tapes`; see `tokentape_pytest.py` for how it comes to be loaded.

It imports the standard library and pytest only, and itself by relative imports: replays, and all
that is ours besides, run in a child process.
"""

from .collecting import Tapes

__all__ = ("Tapes",)
