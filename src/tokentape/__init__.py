"""tokentape: a flight recorder for local language-model experiments.

import tokentape as tt

lm = tt.load_model("smollm2-demo")
store = tt.open_store("sqlite:///runs.db")
with tt.Investigation(lm, store=store, name="probe", system_prompt="You are …", seed=7) as run:
    print(run.chat("Hello", max_new_tokens=20).text)
print(tt.verify(store.recording(run.run_id), lm).verdict)
"""

import lazy_loader

# `import tokentape` imports nothing else of tokentape: names are imported when they are first used,
# so that listing runs never loads torch.
_import_name, _, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"


def __dir__() -> list[str]:
    """Return the public names, and those of every module."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


def __getattr__(name: str) -> object:
    """Import a public name. Raise AttributeError with the nearest name for an unknown one."""
    if name in __all__ or name.startswith("_"):
        return _import_name(name)
    from tokentape.recorder.near_names import nearest

    try:
        return _import_name(name)
    except AttributeError:
        raise AttributeError(f"tokentape has no name {name!r}{nearest(name, __all__)}") from None
