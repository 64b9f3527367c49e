"""Verdicts, kinds of divergence and causes, each member with its meaning in one sentence.

The tables of docs/replay.md are these meanings.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Self


class _Described(StrEnum):
    """A string enum whose members carry a sentence that explains them."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class Verdict(_Described):
    """The result of a replay, from best to worst."""

    EXACT = (
        "exact",
        "retraced: every recorded number is equal, bit for bit; regenerated: the same ids, and the "
        "random generator ended in the same state",
    )
    VERIFIED = (
        "verified",
        "the sampler picks every recorded token, and log-probabilities agree within the floor",
    )
    NEAR_TIE = (
        "near_tie",
        "a pick differs, but by less than the noise and no more often than the noise predicts; "
        "or the noise is too large to say more",
    )
    DRIFTED = ("drifted", "the same tokens, but log-probabilities differ by more than the floor")
    DIVERGED = (
        "diverged",
        "a token that the sampler would not have picked, too many near ties, a broken seal, or a "
        "contradiction within the recording",
    )
    INCOMPARABLE = (
        "incomparable",
        "a fingerprint differs, or no floor is known; the report has the numbers nevertheless",
    )

    @property
    def passes(self) -> bool:
        return self in (Verdict.EXACT, Verdict.VERIFIED, Verdict.NEAR_TIE)

    def is_accepted(self, *, allow_drift: bool) -> bool:
        """Return whether the verdict passes, or is a drift that the caller allows."""
        return self.passes or (allow_drift and self is Verdict.DRIFTED)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the worst of at least one verdict."""
    return max(verdicts, key=list(Verdict).index)


class DivergenceKind(_Described):
    """How the recorded and the replayed side of one token differ."""

    TOKEN = ("token", "another token is picked")
    FILTERED = ("filtered", "the sampler would have filtered the recorded token")
    NEAR_TIE = ("near_tie", "another token is picked, within the noise")
    LOGPROB = ("logprob", "the same token is picked, with another log-probability")
    SAMPLER = (
        "sampler",
        "the same token is picked, with another log-probability after the processors",
    )

    @property
    def is_mismatch(self) -> bool:
        """Whether another token is picked, beyond the noise."""
        return self in (DivergenceKind.TOKEN, DivergenceKind.FILTERED)


class CauseKind(_Described):
    """Why the recorded and the replayed side differ."""

    WEIGHTS = (
        "weights",
        "their fingerprint differs, and which tensors; log-probabilities differ from the first "
        "tokens on",
    )
    ADAPTERS = (
        "adapters",
        "other adapters (LoRA) are active than in the turn",
    )
    CONFIG = (
        "config",
        "a field of the model's config, or a number, text or buffer that its modules hold, is not "
        "the recorded one; which, with both values",
    )
    MODEL_CODE = (
        "model_code",
        "the model's class, the code of its modules or attention kernel, or a forward hook is not "
        "the recorded one; which",
    )
    TOKENIZER = (
        "tokenizer",
        "its fingerprint differs; which recorded text is encoded to other ids, and where",
    )
    TEMPLATE = (
        "template",
        "the fingerprint of the chat template differs; where its rendering differs from the "
        "recorded prompt",
    )
    DTYPE = ("dtype", "the model has another dtype than the recorded one")
    DEVICE = ("device", "the model is on another kind of device than the recorded one")
    RANDOM_STREAM = (
        "random_stream",
        "this torch draws other random numbers from a seed; counts only for sampled turns",
    )
    PREFIX = (
        "prefix",
        "all turns that read states from a prefix folder or from the caller differ, and no other "
        "turn does: no event says how these states were computed",
    )
    PROMPT = (
        "prompt",
        "log-probabilities differ from the first token of a turn on, and recorded ids are not "
        "those of their recorded text",
    )
    UNKNOWN = (
        "unknown",
        "log-probabilities differ, no recorded fingerprint does, and no id contradicts its text: "
        "model or prompt, which cannot be told apart; the sentence says what is recorded and what "
        "is not",
    )
    TOOL_RESULT = (
        "tool_result",
        "the model was shown something else than the tool returned; or the tool, run again, "
        "returns something else",
    )
    INTERVENTION = (
        "intervention",
        "the turn was replayed without its interventions; or the numbers agree when one of them "
        "is left out: it did not act",
    )
    TOKEN = ("token", "the logits of one row agree, and the recorded token is not their pick")
    SEED = (
        "seed",
        "the seed does not lead to the recorded end state of the generator; which seed near it "
        "does",
    )
    DRAWS = (
        "draws",
        "the seed leads to the recorded end state with some draws more or fewer: the random "
        "stream is shifted",
    )
    SAMPLER = (
        "sampler",
        "the model agrees and the sampler does not; which one setting, with which value, explains "
        "the turn",
    )
    STOP = ("stop", "the settings do not stop the turn at its last token, or for its stop reason")
    TEXT = ("text", "the ids of a reply do not decode to its text")
    RECORDING = ("recording", "a hash within the recording does not match what it hashes")
    SEAL = ("seal", "the seal of a turn or of the run does not match the events before it")
    SCHEDULE = (
        "schedule",
        "states were restored from disk or given by the caller, and how they were computed is not "
        "recorded; `retrace` computes them its own way",
    )
    NUMERICS = (
        "numerics",
        "differences little above the floor, and another kernel, library or processor; or near "
        "ties only",
    )
