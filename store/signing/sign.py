"""`tt.sign`: sign the last seal of a run."""

from collections.abc import Callable
from os import PathLike

from tokentape.recorder.paths import expand_path
from tokentape.recorder.seals import SealReport, check_seals
from tokentape.store.live.database import DatabaseStore
from tokentape.store.signing.keys import PrivateKey, read_small_file
from tokentape.store.signing.signatures import (
    SignatureCheck,
    SignatureState,
    check_signature,
    last_point,
    sign_with,
    signatures_of,
    signed_text,
    stored_signature,
)
from tokentape.store.signing.sshsig import parse_signature
from tokentape.store.signing.wire import SignatureError
from tokentape.store.source import Source


def sign(
    store: DatabaseStore,
    run_id: str,
    *,
    key: str | PathLike[str] | None = None,
    passphrase: Callable[[], str] | None = None,
    signature: str | PathLike[str] | None = None,
) -> SignatureCheck:
    """Sign the last seal of a run with an SSH key, and store the signature with the run.

    `key` is the path of a private key: Ed25519, ECDSA or RSA; `passphrase` is called if it is
    encrypted. Instead of it, `signature` is the path of what `ssh-keygen -Y sign -n tokentape`
    made of the text that `text_to_sign` returns, with a key in hardware or in an agent. A seal that
    the key has signed already is not signed again.

    Raise SignatureError if the key cannot be used, if the signature does not fit the run, and for
    a run that is altered or has no seal; StoreError if the store cannot be written to.

    Example:
        >>> import subprocess
        >>> import tokentape as tt
        >>> new_key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada", "-f", "ada"]
        >>> _ = subprocess.run(new_key, check=True)
        >>> tt.sign(store, run_id, key="ada").state
        <SignatureState.FITS: 'fits'>
        >>> tt.check(store, run_id, signers="ada.pub").signatures[0].signer
        'ada'
    """
    if (key is None) == (signature is None):
        raise SignatureError("give a key to sign with, or a signature")
    recording = store.recording(run_id)
    report = check_seals(recording.run_id, recording.records())
    point = last_point(report)
    if key is not None:
        private = PrivateKey(expand_path(key), passphrase)
        made = sign_with(private, signed_text(recording.run_id, point))
    else:
        assert signature is not None
        content = read_small_file(expand_path(signature), "the signature")
        made = parse_signature(content.decode(errors="replace"))
    stored = stored_signature(recording.run_id, point, made)
    found = check_signature(stored, report)
    if not found.is_right:
        raise SignatureError(f"the signature is not stored: {found.reason}")
    there = _already(store, report, found.key)
    if there is None:
        store.add_verdict(stored)
    return there or found


def text_to_sign(source: Source, run_id: str) -> str:
    """Return the text that a signature of a run signs, up to its last seal. Raise as `sign`.

    Example:
        >>> import tokentape as tt
        >>> tt.text_to_sign(store, run_id).splitlines()[0]
        'tokentape signature 1'
    """
    recording = source.recording(run_id)
    report = check_seals(recording.run_id, recording.records())
    return signed_text(recording.run_id, last_point(report))


def _already(store: DatabaseStore, report: SealReport, key: str | None) -> SignatureCheck | None:
    """Return the stored signature of the last seal by a key; None if it has not signed that."""
    checked = (check_signature(each, report) for each in signatures_of(store, report.run_id))
    fits = (each for each in checked if each.state is SignatureState.FITS)
    return next((each for each in fits if each.key == key), None)
