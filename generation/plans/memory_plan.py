"""The memory that a conversation needs on a device, turn by turn, and a budget for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tokentape.generation.engine.prefill import longest_chunk
from tokentape.generation.models.forward_memory import TransientBytes, prefill_bytes
from tokentape.generation.models.kv_memory import (
    KvSimulation,
    capacity_bytes,
    content_bytes,
    token_bytes,
)
from tokentape.generation.models.model_sizes import ModelSizes
from tokentape.generation.run_settings import CACHE_BYTES, PREFILL_CHUNK_TOKENS

MIB = 1024**2
_CHUNKS = (2048, 1024, PREFILL_CHUNK_TOKENS, 256, 128, 64)
"""Chunks that are proposed, the longest first."""
_CHUNK_MAX = {"cuda": 2048, "cpu": PREFILL_CHUNK_TOKENS}
"""The longest chunk that computes faster than a shorter one."""
_CONTEXT_SHARE = 0.95
"""The chunk that is proposed leaves at least this part of the longest context that fits."""
_RESERVE_BYTES = {"cuda": 600 * MIB, "cpu": 500 * MIB}
"""The context of CUDA with its libraries' workspaces; the process with its libraries."""
RESERVE_SHARE = 0.1
_TURNS_MAX = 200
_TOKENS_MAX = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLength:
    """The lengths of one turn, in tokens."""

    prompt_tokens: int
    """The whole prompt, with all that was said before."""
    new_tokens: int
    """The longest reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """How a run uses its caches; see `CachePolicy`."""

    reuses: bool
    """Whether a turn continues from cached tokens."""
    snapshots: bool
    """Whether copies are stored, since the caches cannot be cropped."""
    splits_prefill: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnMemory:
    """The memory of one turn at its peak, in bytes."""

    turn: int
    prompt_tokens: int
    computed_tokens: int
    new_tokens: int
    kv_bytes: int
    """All caches at the peak: those stored, and the one that the turn fills."""
    transient: TransientBytes
    needed_bytes: int
    """Weights, caches, transient memory and reserve."""
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBudget:
    """Settings of a run that keep it within the memory of the device."""

    cache_bytes: int
    prefill_chunk_tokens: int | None
    context_tokens: int | None
    """The longest sequence that fits; None if none is too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The memory that a conversation needs on a device, and how many of its turns fit."""

    model: str
    family: str
    parameters: int
    dtype: str
    attention: str
    device: str
    device_bytes: int
    """The memory of the device that a run may use."""
    weights_bytes: int
    kv_bytes_per_1000_tokens: int
    """Bytes that 1,000 more tokens add to a long conversation, without spare capacity."""
    kv_fixed_bytes: int
    """Bytes that do not grow: recurrent states, full sliding windows."""
    reserve_bytes: int
    """The driver's context or the process, and a tenth of caches and transient memory of the
    largest turn for blocks of the allocator that are free and too small."""
    turns: tuple[TurnMemory, ...]
    turns_fit: int
    """How many of the turns, from the first, fit."""
    turns_at_this_growth: int | None
    """How many turns fit if each further one adds the average number of tokens; None if that is 200
    or more, or if the prompts do not grow."""
    budget: MemoryBudget | None
    """None if not even the weights fit."""
    notes: tuple[str, ...] = field(default=())
    """What was assumed, a sentence each."""

    @property
    def largest(self) -> TurnMemory:
        """The turn that needs the most memory."""
        return max(self.turns, key=lambda turn: turn.needed_bytes)

    @property
    def free_bytes(self) -> int:
        """Bytes of the device that the largest turn leaves free; negative if it does not fit."""
        return self.device_bytes - self.largest.needed_bytes


def reckon_memory(
    sizes: ModelSizes,
    use: CacheUse,
    turns: Sequence[TurnLength],
    *,
    device: str,
    device_bytes: int,
    prefill_chunk_tokens: int | None = PREFILL_CHUNK_TOKENS,
    cache_bytes: int = CACHE_BYTES,
    system_tokens: int = 0,
    notes: Sequence[str] = (),
) -> MemoryPlan:
    """Return the memory plan of a conversation with these turns, at least one.

    `device` is `cpu` or `cuda`. The first `system_tokens` of all prompts are prefilled before the
    first turn.
    """
    reckoning = _Reckoning(
        sizes=sizes,
        use=use,
        kind=device,
        device_bytes=device_bytes,
        chunk_tokens=prefill_chunk_tokens if use.splits_prefill else None,
        cache_bytes=cache_bytes,
        system_tokens=system_tokens,
    )
    rows = tuple(reckoning.turns(turns))
    fit = next((row.turn - 1 for row in rows if not row.fits), len(rows))
    largest = max(rows, key=lambda row: row.needed_bytes)
    return MemoryPlan(
        model=sizes.name,
        family=sizes.family,
        parameters=sizes.parameters,
        dtype=sizes.dtype,
        attention=sizes.attention,
        device=device,
        device_bytes=device_bytes,
        weights_bytes=sizes.weights_bytes,
        kv_bytes_per_1000_tokens=1000 * token_bytes(sizes.layers),
        kv_fixed_bytes=content_bytes(sizes.layers, _TOKENS_MAX)
        - _TOKENS_MAX * token_bytes(sizes.layers),
        reserve_bytes=reckoning.reserve(largest.kv_bytes + largest.transient.total),
        turns=rows,
        turns_fit=fit,
        turns_at_this_growth=reckoning.turns_at_this_growth(turns),
        budget=reckoning.budget(),
        notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reckoning:
    sizes: ModelSizes
    use: CacheUse
    kind: str
    device_bytes: int
    chunk_tokens: int | None
    cache_bytes: int
    system_tokens: int

    def turns(self, lengths: Sequence[TurnLength]) -> Iterator[TurnMemory]:
        """Yield the memory of each turn."""
        caches = self._caches()
        held = self.system_tokens if self.use.reuses else 0
        if held:
            caches.system_prompt(self._chunks(held, held))
        for number, length in enumerate(lengths, 1):
            computed = max(1, length.prompt_tokens - held)
            chunks = self._chunks(computed, length.prompt_tokens)
            if not self.use.reuses:
                caches = self._caches()
            kv = caches.turn(chunks, length.new_tokens).peak_bytes
            transient = self._prefill(max(chunks), length.prompt_tokens, computed)
            needed = self._needed(kv, transient)
            yield TurnMemory(
                turn=number,
                prompt_tokens=length.prompt_tokens,
                computed_tokens=computed,
                new_tokens=length.new_tokens,
                kv_bytes=kv,
                transient=transient,
                needed_bytes=needed,
                fits=needed <= self.device_bytes and self._in_context(length),
            )
            if self.use.reuses:
                held = length.prompt_tokens + length.new_tokens - 1

    def turns_at_this_growth(self, lengths: Sequence[TurnLength]) -> int | None:
        """Return how many turns fit if each adds as many tokens as these did on average."""
        growth = (lengths[-1].prompt_tokens - lengths[0].prompt_tokens) // max(1, len(lengths) - 1)
        if growth <= 0:
            return None
        last = lengths[-1]
        more = [
            replace(last, prompt_tokens=last.prompt_tokens + growth * turn)
            for turn in range(1, _TURNS_MAX - len(lengths) + 1)
        ]
        rows = self.turns([*lengths, *more])
        return next((row.turn - 1 for row in rows if not row.fits), None)

    def budget(self) -> MemoryBudget | None:
        """Return the settings with which a run stays within the device, or None."""
        chunks: tuple[int | None, ...] = (None,)
        if self.use.splits_prefill:
            chunks = tuple(each for each in _CHUNKS if each <= _CHUNK_MAX[self.kind])
        longest = {chunk: self._longest(chunk) for chunk in chunks}
        most = max(longest.values())
        if not most:
            return None
        chunk = next(each for each in chunks if longest[each] >= _CONTEXT_SHARE * most)
        tokens = longest[chunk]
        forward = self._forward_tokens(chunk, tokens)
        room = self.device_bytes - self._needed(
            capacity_bytes(self.sizes.layers, tokens, forward), self._transient(chunk, tokens)
        )
        limit = self.sizes.context_tokens
        return MemoryBudget(
            cache_bytes=int(room / (1 + RESERVE_SHARE)) // MIB * MIB,
            prefill_chunk_tokens=chunk,
            context_tokens=None if limit is None and tokens == _TOKENS_MAX else tokens,
        )

    def _longest(self, chunk: int | None) -> int:
        """Return the most tokens of a sequence that fits, also while its buffers are outgrown."""
        layers = self.sizes.layers
        fits, over = 0, (self.sizes.context_tokens or _TOKENS_MAX) + 1
        while over - fits > 1:
            tokens = (fits + over) // 2
            kv = content_bytes(layers, tokens) + capacity_bytes(
                layers, tokens, self._forward_tokens(chunk, tokens)
            )
            if self._needed(kv, self._transient(chunk, tokens)) <= self.device_bytes:
                fits = tokens
            else:
                over = tokens
        return fits

    def reserve(self, used: int) -> int:
        """Return the memory that is taken apart from tensors, if these take `used` bytes."""
        return _RESERVE_BYTES[self.kind] + int(RESERVE_SHARE * used)

    def _needed(self, kv: int, transient: TransientBytes) -> int:
        used = kv + transient.total
        return self.sizes.weights_bytes + used + self.reserve(used)

    def _transient(self, chunk: int | None, tokens: int) -> TransientBytes:
        return self._prefill(self._forward_tokens(chunk, tokens), tokens, tokens)

    def _prefill(self, forward: int, total: int, computed: int) -> TransientBytes:
        return prefill_bytes(
            self.sizes.forward,
            computed_tokens=computed,
            total_tokens=total,
            forward_tokens=forward,
            on_cuda=self.kind == "cuda",
        )

    def _forward_tokens(self, chunk: int | None, tokens: int) -> int:
        return (
            tokens
            if chunk is None
            else min(tokens, longest_chunk(chunk, tokens, on_cuda=self.kind == "cuda"))
        )

    def _chunks(self, computed: int, total: int) -> tuple[int, ...]:
        """Return the tokens of each forward of a prefill."""
        longest = min(computed, self._forward_tokens(self.chunk_tokens, total))
        return (longest,) * (computed // longest) + (
            (computed % longest,) * (computed % longest > 0)
        )

    def _caches(self) -> KvSimulation:
        return KvSimulation(
            self.sizes.layers, snapshots=self.use.snapshots, budget_bytes=self.cache_bytes
        )

    def _in_context(self, length: TurnLength) -> bool:
        limit = self.sizes.context_tokens
        return limit is None or length.prompt_tokens + length.new_tokens <= limit
