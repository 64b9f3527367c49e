"""Adapters (LoRA) as a cause: other ones than recorded."""


def adapters_sentence(recorded: str, replayed: str) -> str:
    """Return a sentence on two different states of adapters, as the cache key describes them."""
    before, now = adapter_names(recorded), adapter_names(replayed)
    if before == now:
        return f"the adapters {now} have another scaling, or act in other layers, than recorded"
    return f"the active adapters are not those that were recorded: {before} then, {now} now"


def adapter_names(adapters: str) -> str:
    """Return the description without its hash."""
    names, _, _ = adapters.rpartition(" ")
    return names or adapters
