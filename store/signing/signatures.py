"""Signatures of runs: making, storing and checking them.

A signature is an annotation of a run, stored with its verdicts under the replay `signature`: no
event is added, and every copy of the run has it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tokentape.recorder.clock import now_us
from tokentape.recorder.seals import SealPoint, SealReport
from tokentape.store.attachments import StoredVerdict
from tokentape.store.expectations import continued_after
from tokentape.store.signing.keys import (
    PrivateKey,
    check_installed,
    fingerprint,
    is_signed_by,
    key_type,
)
from tokentape.store.signing.signers import Signers
from tokentape.store.signing.sshsig import (
    NAMESPACE,
    SshSignature,
    parse_signature,
    signed_bytes,
)
from tokentape.store.signing.wire import SignatureError
from tokentape.store.source import Attachments

REPLAY = "signature"
"""The `replay` of a verdict that is a signature."""
_FORMAT = 1


class SignatureState(StrEnum):
    """What a signature says about the run that it is stored with."""

    FITS = "fits"
    """It is of this run, up to its last seal."""
    FITS_BEGINNING = "fits_beginning"
    """It is of this run, which was continued after the seal that was signed."""
    DOES_NOT_FIT = "does_not_fit"
    """It was made for something else, or the run was altered after it was signed."""
    NOT_COMPARED = "not_compared"
    """The key signed a run with this id; the seal was not compared with the events."""
    UNREADABLE = "unreadable"
    """It is damaged."""
    UNCHECKED = "unchecked"
    """The library that verifies signatures is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureCheck:
    """The result of checking one signature of a run."""

    state: SignatureState
    reason: str
    """Why it does not fit, cannot be read, or covers only the beginning; empty otherwise."""
    key: str | None
    """The fingerprint of the key that made it; None if the signature cannot be read."""
    key_type: str | None
    signer: str | None
    """Whose key it is by the file of signers; None without one and for an unknown key."""
    last_turn: int | None
    """The last turn that it covers; None if it does not fit."""
    signature: str
    """The signature as `ssh-keygen -Y sign` writes it."""
    message: str | None
    """The text that it signs; None if it does not fit."""

    @property
    def is_right(self) -> bool:
        """Whether the key did sign this run, up to its end or to an earlier turn."""
        return self.state in (SignatureState.FITS, SignatureState.FITS_BEGINNING)


def signed_text(run_id: str, point: SealPoint) -> str:
    """Return the text that a signature of a run signs, up to one of its seals.

    It binds the id, the seal and the number of events and of turns, one a line; `docs/trust.md`
    shows it. Raise SignatureError for an id with a character that would begin another line.
    """
    if not run_id.isprintable():
        raise SignatureError(f"run {run_id!r} cannot be signed: its id is not printable")
    return (
        f"tokentape signature {_FORMAT}\n"
        f"run {run_id}\n"
        f"seal {point.seal}\n"
        f"events {point.events}\n"
        f"turns {point.turns}\n"
    )


def last_point(report: SealReport) -> SealPoint:
    """Return the last seal of a run. Raise SignatureError if the run is altered or not sealed."""
    if report.fault:
        raise SignatureError(f"run {report.run_id} is not signed: it is altered: {report.fault}")
    if not report.points:
        raise SignatureError(f"run {report.run_id} is not signed: none of its turns is sealed yet")
    return report.points[-1]


def sign_with(key: PrivateKey, message: str) -> SshSignature:
    """Return the signature of a text by a key."""
    made = key.sign(signed_bytes(message.encode()))
    return SshSignature(public_key=key.public_key, signature=made)


def stored_signature(
    run_id: str,
    point: SealPoint,
    signature: SshSignature,
    clock_us: Callable[[], int] = now_us,
) -> StoredVerdict:
    """Return the annotation that stores a signature of a run up to a seal."""
    key = fingerprint(signature.public_key)
    report = {
        "format": _FORMAT,
        "reason": f"signed with the key {key}, up to event {point.events - 1}",
        "seal": point.seal,
        "events": point.events,
        "sealed_turns": point.turns,
        "signature": str(signature),
    }
    return StoredVerdict(
        run_id=run_id, at_us=clock_us(), replay=REPLAY, verdict="signed", report=report
    )


def signatures_of(attached: Attachments, run_id: str) -> list[StoredVerdict]:
    """Return the stored signatures of a run, the oldest first."""
    return [each for each in attached.verdicts(run_id) if each.replay == REPLAY]


def check_signature(
    stored: StoredVerdict, report: SealReport | None, signers: Signers | None = None
) -> SignatureCheck:
    """Compare a stored signature with the run that it is stored with; `report` is on its seals.

    Without a report no event is read: a right signature is NOT_COMPARED.
    """
    text = stored.report.get("signature")
    try:
        if not isinstance(text, str):
            raise SignatureError("it has no text")
        signature = parse_signature(text)
        kind = key_type(signature.public_key)
    except SignatureError as error:
        return SignatureCheck(
            state=SignatureState.UNREADABLE,
            reason=str(error),
            key=None,
            key_type=None,
            signer=None,
            last_turn=None,
            signature=str(text),
            message=None,
        )
    point = _claimed(stored) if report is None else _signed_point(stored, report)
    state, reason = _state(signature, stored.run_id, point, report)
    fits = state not in (SignatureState.DOES_NOT_FIT, SignatureState.UNREADABLE)
    return SignatureCheck(
        state=state,
        reason=reason,
        key=fingerprint(signature.public_key),
        key_type=kind,
        signer=None if signers is None else signers.names.get(signature.public_key),
        last_turn=point.last_turn if fits and point is not None else None,
        signature=text,
        message=signed_text(stored.run_id, point) if fits and point is not None else None,
    )


def _state(
    signature: SshSignature, run_id: str, point: SealPoint | None, report: SealReport | None
) -> tuple[SignatureState, str]:
    """Return the state of a signature, and the reason for it."""
    try:
        check_installed()
    except SignatureError as error:
        return SignatureState.UNCHECKED, str(error)
    try:
        fault = _misfit(signature, run_id, point)
    except SignatureError as error:
        return SignatureState.UNREADABLE, str(error)
    if fault or point is None:
        return SignatureState.DOES_NOT_FIT, fault
    if report is None:
        return SignatureState.NOT_COMPARED, ""
    more = continued_after(point, report, "the signed seal")
    return SignatureState.FITS_BEGINNING if more else SignatureState.FITS, more


def _signed_point(stored: StoredVerdict, report: SealReport) -> SealPoint | None:
    """Return the seal of a run that a signature names; None if the run does not have it."""
    seal = stored.report.get("seal")
    return next((each for each in report.points if each.seal == seal), None)


def _claimed(stored: StoredVerdict) -> SealPoint | None:
    """Return the seal that a signature names, and the numbers stored with it."""
    seal, events, turns = (stored.report.get(name) for name in ("seal", "events", "sealed_turns"))
    if not (isinstance(seal, str) and isinstance(events, int) and isinstance(turns, int)):
        return None
    return SealPoint(seal=seal, events=events, turns=turns, last_turn=None)


def unsigned(checked: Iterable[SignatureCheck], signers: Signers, last_seal: str | None) -> str:
    """Return why a run is not signed up to its last seal by a known key; "" if it is."""
    known = [each for each in checked if each.signer is not None and each.is_right]
    if last_seal is not None and any(each.state is SignatureState.FITS for each in known):
        return ""
    if known:
        newest = known[-1]
        return f"the signature of {newest.signer} covers only the beginning: {newest.reason}"
    refused = [
        signers.refused[key]
        for each in checked
        if each.is_right and (key := parse_signature(each.signature).public_key) in signers.refused
    ]
    if refused:
        return f"the signer is not accepted: {refused[0]}"
    return "no known key has signed the run"


def faults_of(checked: Sequence[SignatureCheck]) -> list[str]:
    """Return a line for each signature that contradicts the run."""
    wrong = (SignatureState.DOES_NOT_FIT, SignatureState.UNREADABLE)
    return [
        f"a signature {_WRONG[each.state]}: {each.reason}"
        for each in checked
        if each.state in wrong
    ]


_WRONG = {
    SignatureState.DOES_NOT_FIT: "does not fit the run",
    SignatureState.UNREADABLE: "cannot be read",
}


def _misfit(signature: SshSignature, run_id: str, point: SealPoint | None) -> str:
    """Return why a signature is not of a run up to a seal; "" if it is."""
    if signature.namespace != NAMESPACE:
        return f"it was made for the namespace {signature.namespace!r}, not {NAMESPACE!r}"
    if point is None:
        return (
            "it signs a seal that the run does not have: the run was altered or its end was "
            "removed after it was signed, or the signature is of another run"
        )
    data = signature.signed_bytes(signed_text(run_id, point).encode())
    if not is_signed_by(signature.public_key, signature.signature, data):
        return "its key did not sign this run and this seal"
    return ""
