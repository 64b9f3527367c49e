"""Events that begin, resume, fork and end a run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tokentape.recorder.escapes import visible
from tokentape.recorder.events.checks import (
    check,
    check_counts,
    check_seed,
    check_total,
    check_turn,
)
from tokentape.recorder.events.fields import (
    Label,
    Settings,
    Sha256,
    Text,
    Texts,
    Values,
)
from tokentape.recorder.events.traits import BelongsTo, EventBase, EventTraits

INTERRUPTED = "interrupted"
"""The `reason` of a run that its user ended early."""

IMPORTED = "imported"
"""The `reason` of a conversation that was imported from another program, without tokens."""

CLOSED = "RunClosed"
"""The `error` of a run that was closed after its process was gone."""

FORK_CONTINUES = "continue"
"""The name, in `RunForked.changes`, of a fork that sends the later messages of its parent."""

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(EventBase):
    """A run began: all that must be equal for the run to be repeated.

    Sums named `…_sha256` are hexadecimal.
    """

    version: ClassVar[int] = 2
    traits: ClassVar[EventTraits] = EventTraits(
        durable=True,
        belongs_to=BelongsTo.RUN,
        changes_summary=True,
        payload="weights_sha256",
    )

    name: Text
    """Chosen by the user."""
    seed: int | None
    """The seed of the run, which the seeds of its turns are derived from."""
    model: Text
    """The argument that `load_model` was called with; empty if it was not called.

    Of a path outside of the working folder only the last part; 0.1.0 recorded all of it.
    """
    weights_sha256: Sha256
    """The sha256 of the weights manifest, which lists every tensor with its digest."""
    tokenizer_sha256: Sha256
    template_sha256: Sha256
    """The sum of the chat template; empty if the tokenizer has none."""
    generation_config: Settings
    """The model's own generation config."""
    sampler_sha256: Sha256
    """The sum of the first draws of a known seed.

    Random streams change between versions of torch and between devices.
    """
    dtype: Label
    device: Label
    attention_kernel: Label
    """The attention implementation of transformers, such as `sdpa`."""
    threads: int
    """torch's intra-op threads; 0 for an imported conversation."""
    context_tokens: int | None
    """The longest sequence that the model supports; None if its config does not say."""
    environment: Settings
    """Versions, hardware and flags of torch that the last bits depend on; see `environment`.

    0.1.0 recorded the versions only.
    """
    settings: Settings
    """The settings that change the tokens or the events of the run: `RunSettings.to_record`.

    `RunSettings.from_record` reads them.
    """
    cache_policy: Settings = field(default_factory=dict)
    """How the model's KV cache can be reused, and why; see `CachePolicy`."""
    tools: Texts = ()
    """The names of the tools that can be called in the run."""
    conversation_format: Settings = field(default_factory=dict)
    """How the chat template is given the messages: `ConversationFormat.to_record`.

    Empty in runs of version 0.1.0, which gave them as they are.
    """
    warnings: Texts = ()
    """What the user was warned of, such as a chat template whose tool calls are not understood."""
    process: Settings = field(default_factory=dict)
    """The process that records, to tell whether it is still there: host, process id and start.

    See `tokentape.recorder.process`. Empty in runs of version 0.1.0.
    """
    loading: Settings = field(default_factory=dict)
    """How the model was loaded: the keywords of `load_model` that were not the default.

    `dtype` has a field of its own. A revision of the hub is the commit. Empty in runs of version
    0.1.0.
    """
    model_class: Text = ""
    """The qualified name of the model's class.

    Empty in runs of version 0.1.0, as are the next three fields.
    """
    config: Settings = field(default_factory=dict)
    """The fields of the model's config, without names, versions and dtypes.

    Those of nested configs have dotted names, such as `rope_parameters.rope_theta`.
    """
    module_state: Settings = field(default_factory=dict)
    """The numbers, texts and unsaved buffers that the modules hold; see `module_state`.

    Equal values of numbered layers are one entry: `model.layers.*.self_attn.scaling`.
    """
    model_code: Settings = field(default_factory=dict)
    """Hashes of the code of the modules, of functions in its place and of foreign hooks.

    See `model_code` in `tokentape.generation.fingerprints`.
    """
    redacted: bool = False
    """Whether a redactor rewrote the texts of the run; then its token ids are not recorded."""
    tool_sources: Settings = field(default_factory=dict)
    """By tool: the `sha256` of its Python source, and the name and sha256 of the file it is from.

    The fields are `sha256`, `file` and `file_sha256`; see `ToolInterface.sources`.
    """
    tokentape_version: Label = ""
    """The version of tokentape that began the run.

    Empty in runs of version 0.1.0.
    """
    weights_listed: bool = False
    """Whether the weights manifest is stored, as a blob.

    A redacted run keeps only its sha256.
    """

    def __post_init__(self) -> None:
        check_seed(self.seed)
        # PostgreSQL cannot store NUL in text, and both are columns.
        check("\0" not in self.name + self.model, "name and model must not contain NUL")
        check_counts(threads=self.threads)
        check(
            not self.weights_listed or _SHA256.fullmatch(self.weights_sha256) is not None,
            f"weights_sha256 of listed weights must be a sha256: {self.weights_sha256!r}",
        )

    @classmethod
    def payload_sha256_of(cls, fields: Mapping[str, Any]) -> str:
        """Return the sha256 of the weights manifest; empty if none was stored."""
        is_stored = fields.get("weights_listed") and not fields.get("redacted")
        return str(fields["weights_sha256"]) if is_stored else ""

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        model = f", model {visible(self.model)}" if self.model else ""
        warned = "".join(f"; warning: {visible(each)}" for each in self.warnings)
        stored = self.loading.get("dtype", self.dtype)
        weights = f" over weights in {visible(str(stored))}" if stored != self.dtype else ""
        machine = f", {visible(self.dtype)}{weights} on {visible(self.device)}, seed {self.seed}"
        # An imported conversation has neither.
        computed = machine if self.threads else ""
        return f"run {visible(self.name)}{model}{computed}{warned}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed(EventBase):
    """The run continues in another process, or after its end.

    Messages that were added since the last turn began are void: they are recorded again.
    The fields from `weights_sha256` on mean the same as in `RunStarted`, in the resuming process.
    """

    version: ClassVar[int] = 2
    traits: ClassVar[EventTraits] = EventTraits(durable=True, changes_summary=True)

    turn: int | None
    """The turn in progress; None between turns."""
    step: int | None
    """How many tokens of that turn are kept; None between turns."""
    weights_sha256: Sha256
    sampler_sha256: Sha256
    device: Label
    threads: int
    environment: Settings
    process: Settings = field(default_factory=dict)
    tool_sources: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(
            (self.turn is None) == (self.step is None),
            "turn and step must both be given or both be None",
        )
        check_counts(turn=self.turn, step=self.step)
        check(self.threads >= 1, f"threads must be at least one: {self.threads}")

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        where = "" if self.turn is None else f" in turn {self.turn}, after {self.step} tokens"
        return f"resumed{where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunForked(EventBase):
    """The run shares the events of another run up to `parent_seq`, without copying them."""

    version: ClassVar[int] = 2
    traits: ClassVar[EventTraits] = EventTraits(
        durable=True, belongs_to=BelongsTo.RUN, changes_summary=True
    )

    parent_run_id: Label
    parent_seq: int
    """The last event of the parent that is shared."""
    parent_hash: Label
    """The parent's tail hash at that event (see `SealChain`): it identifies the shared events."""
    at_turn: int
    """The first turn that is not shared, or not shared completely."""
    changes: Values
    """The settings that the user changed for this run."""
    at_token: int | None = None
    """The first token of that turn that is not shared, from zero; None if none of it is shared."""
    other_model: Texts = ()
    """What of the model is not the parent's, such as `weights`; empty for the same model."""

    def __post_init__(self) -> None:
        check_counts(parent_seq=self.parent_seq)
        check_turn(self.at_turn)
        check_counts(at_token=self.at_token)
        check(bool(self.parent_run_id), "parent_run_id must not be empty")

    @property
    def place(self) -> str:
        """Where the fork leaves its parent, for people."""
        token = "" if self.at_token is None else f", token {self.at_token}"
        return f"turn {self.at_turn}{token}"

    @property
    def with_model(self) -> str:
        """What of the model is not the parent's, for people; empty for the same model."""
        other = ", ".join(map(visible, self.other_model))
        return f", with another model ({other})" if other else ""

    @property
    def origin(self) -> str:
        """The parent, where the fork leaves it, and another model if it has one, for people."""
        return f"run {visible(self.parent_run_id)} at {self.place}{self.with_model}"

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        return f"forked from {self.origin}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(EventBase):
    """The run ended without an error. Its totals do not include turns shared with a parent."""

    version: ClassVar[int] = 2
    traits: ClassVar[EventTraits] = EventTraits(
        durable=True,
        sealed=True,
        ends_run=True,
        belongs_to=BelongsTo.RUN,
        changes_summary=True,
    )

    turns: int
    """Turns that finished."""
    prompt_tokens: int
    """Tokens of all prompts, also of turns that did not finish."""
    reused_tokens: int
    """Tokens of prompts that were taken from the cache."""
    computed_tokens: int
    generated_tokens: int
    """Tokens of the turns that finished."""
    reason: Text = ""
    """`interrupted` if the user ended the run early, `imported` for an imported conversation, else
    empty."""
    signal: Label = ""
    """The signal that interrupted it, such as `SIGTERM`; empty for Ctrl-C and for any other end."""

    def __post_init__(self) -> None:
        check_counts(turns=self.turns, generated_tokens=self.generated_tokens)
        check_total(
            prompt_tokens=self.prompt_tokens,
            reused_tokens=self.reused_tokens,
            computed_tokens=self.computed_tokens,
        )

    @property
    def status(self) -> str:
        """The status of the run: `interrupted` or another reason, else `finished`."""
        return self.reason or "finished"

    @property
    def status_text(self) -> str:
        """The status and, where there was one, the signal."""
        return f"{self.status} by {self.signal}" if self.signal else self.status

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        turns = "turn" if self.turns == 1 else "turns"
        why = f" ({visible(self.status_text)})" if self.reason else ""
        return f"finished{why}: {self.turns} {turns}, {self.generated_tokens:,} tokens generated"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(EventBase):
    """The run ended with an exception, or was closed after its process was gone."""

    version: ClassVar[int] = 1
    traits: ClassVar[EventTraits] = EventTraits(
        durable=True,
        sealed=True,
        ends_run=True,
        belongs_to=BelongsTo.RUN,
        changes_summary=True,
    )

    error: Label
    """The name of the exception's class; `RunClosed` for a run that was closed."""
    message: Text
    traceback: Text

    @property
    def status(self) -> str:
        """The status of the run: `failed`."""
        return "failed"

    @property
    def error_text(self) -> str:
        """The class and the message of the exception; the message alone of a closed run."""
        named = () if self.error == CLOSED else (self.error,)
        return ": ".join(each for each in (*named, self.message) if each)

    @property
    def status_text(self) -> str:
        """The status and the error."""
        return f"failed: {self.error_text}" if self.error_text else "failed"

    def describe(self) -> str:
        """Return the event as text for a transcript."""
        return visible(self.status_text)
