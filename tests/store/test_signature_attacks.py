"""Forged, moved and damaged signatures are told from genuine ones."""

import base64
import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import tokentape as tt
from tests.store.crash import record_script
from tests.store.made_runs import begin, say
from tests.store.ssh_keys import allowed, make_key, public, verified_by_ssh
from tokentape.store import DatabaseStore
from tokentape.store.signing.keys import is_signed_by
from tokentape.store.signing.signatures import SignatureState, signatures_of
from tokentape.store.signing.sshsig import SshSignature, parse_signature, signed_bytes
from tokentape.store.signing.wire import SignatureError, pack_strings


def put(store: DatabaseStore, run_id: str, like: Any, **changes: Any) -> None:
    """Store a signature that nobody made so."""
    (genuine,) = signatures_of(store, like)
    report = dict(genuine.report) | changes
    store.add_verdict(replace(genuine, run_id=run_id, report=report))


def test_the_signature_of_another_run_does_not_fit(
    store: DatabaseStore, run_id: str, key: Path
) -> None:
    other_id = record_script(store, "another", turns=3, seed=1)
    tt.sign(store, run_id, key=key)
    seal = tt.check(store, other_id).last_seal
    put(store, other_id, run_id)
    put(store, other_id, run_id, seal=seal)
    found = tt.check(store, other_id, signers=public(key))

    assert [each.state for each in found.signatures] == [SignatureState.DOES_NOT_FIT] * 2
    assert len(found.faults) == 2
    assert found.unmet == ("no known key has signed the run",)


def test_an_older_signature_that_names_the_last_seal_does_not_fit(
    store: DatabaseStore, key: Path
) -> None:
    recorder = begin(store)
    say(recorder, 1, tokens=2)
    tt.sign(store, recorder.run_id, key=key)
    say(recorder, 2, tokens=2)
    put(store, recorder.run_id, recorder.run_id, seal=tt.check(store, recorder.run_id).last_seal)
    states = [each.state for each in tt.check(store, recorder.run_id).signatures]

    assert sorted(states) == [SignatureState.DOES_NOT_FIT, SignatureState.FITS_BEGINNING]


def test_a_signature_for_another_purpose_does_not_fit(
    store: DatabaseStore, run_id: str, key: Path, tmp_path: Path
) -> None:
    message = tmp_path / "message"
    message.write_text(tt.text_to_sign(store, run_id))
    sign = ["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(key), str(message)]
    subprocess.run(sign, check=True, capture_output=True)

    with pytest.raises(SignatureError, match="for the namespace 'git', not 'tokentape'"):
        tt.sign(store, run_id, signature=tmp_path / "message.sig")
    relabelled = replace(
        parse_signature((tmp_path / "message.sig").read_text()), namespace="tokentape"
    )
    (tmp_path / "message.sig").write_text(str(relabelled))
    with pytest.raises(SignatureError, match="its key did not sign this run"):
        tt.sign(store, run_id, signature=tmp_path / "message.sig")
    assert signatures_of(store, run_id) == []


def test_a_public_key_in_the_place_of_the_signers_key_is_not_enough(
    store: DatabaseStore, run_id: str, key: Path, tmp_path: Path
) -> None:
    """Whoever can write puts the key of the signer into a signature of their own."""
    mallory = make_key(tmp_path, "mallory")
    made = parse_signature(tt.sign(store, run_id, key=mallory).signature)
    blob = base64.b64decode(public(key).read_text().split()[1])
    put(store, run_id, run_id, signature=str(replace(made, public_key=blob)))
    found = tt.check(store, run_id, signers=public(key))

    assert SignatureState.DOES_NOT_FIT in [each.state for each in found.signatures]
    assert found.unmet == ("no known key has signed the run",)


GARBAGE = {
    "nothing": "",
    "words": "signed, Ada",
    "no base64": "-----BEGIN SSH SIGNATURE-----\n====\n-----END SSH SIGNATURE-----\n",
    "other bytes": "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n",
    "long": "-----BEGIN SSH SIGNATURE-----\n" + "A" * 200_000,
    "a length beyond the end": str(SshSignature(public_key=b"\xff" * 8, signature=b"\xff" * 8)),
    "a key of an unknown type": str(
        SshSignature(public_key=pack_strings(b"ssh-dss", b"x"), signature=pack_strings(b"x", b"y"))
    ),
    "a key with escapes": str(SshSignature(public_key=pack_strings(b"\x1b[31m"), signature=b"")),
    "an empty key": str(SshSignature(public_key=pack_strings(b"ssh-ed25519", b""), signature=b"")),
    "a short RSA key": str(
        SshSignature(
            public_key=pack_strings(b"ssh-rsa", b"\x03", b"\x01" * 16),
            signature=pack_strings(b"rsa-sha2-512", b"\x01" * 16),
        )
    ),
    "a point off the curve": str(
        SshSignature(
            public_key=pack_strings(b"ecdsa-sha2-nistp256", b"nistp256", b"\x04" + b"\x01" * 64),
            signature=pack_strings(b"ecdsa-sha2-nistp256", pack_strings(b"\x01", b"\x01")),
        )
    ),
    "a curve without a name": str(
        SshSignature(
            public_key=pack_strings(b"ecdsa-sha2-nistp256", b"", b"\x04"),
            signature=pack_strings(b"ecdsa-sha2-nistp256", pack_strings(b"\x01", b"\x01")),
        )
    ),
    "an unknown curve": str(
        SshSignature(
            public_key=pack_strings(b"ecdsa-sha2-nistp256", b"nistp1", b"\x04"),
            signature=pack_strings(b"ecdsa-sha2-nistp256", pack_strings(b"\x01", b"\x01")),
        )
    ),
}


@pytest.mark.parametrize("text", [*GARBAGE.values(), 7, None, ["x"]], ids=[*GARBAGE, *"123"])
def test_a_signature_that_is_garbage_is_a_fault(
    store: DatabaseStore, run_id: str, key: Path, text: Any
) -> None:
    tt.sign(store, run_id, key=key)
    put(store, run_id, run_id, signature=text)
    found = tt.check(store, run_id)

    assert len(found.signatures) == 2
    assert SignatureState.UNREADABLE in [each.state for each in found.signatures]
    assert len(found.faults) == 1
    assert "\x1b" not in found.faults[0]


@pytest.mark.parametrize("kind", ["ed25519", "256", "rsa"])
def test_no_bit_of_a_signature_can_change(
    store: DatabaseStore, run_id: str, kind: str, key_of: Callable[[str], Path]
) -> None:
    made = parse_signature(tt.sign(store, run_id, key=key_of(kind)).signature)
    data = signed_bytes(tt.text_to_sign(store, run_id).encode())
    assert is_signed_by(made.public_key, made.signature, data)
    for part in ("public_key", "signature"):
        whole = getattr(made, part)
        for at in range(0, len(whole), 3):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << at % 8
            changed = replace(made, **{part: bytes(flipped)})
            try:
                assert not is_signed_by(changed.public_key, changed.signature, data), (part, at)
            except SignatureError:
                continue


def ed25519_key() -> tuple[bytes, Callable[[bytes], bytes]]:
    private = ed25519.Ed25519PrivateKey.generate()
    return pack_strings(private.public_key().public_bytes_raw()), private.sign


def ecdsa_key() -> tuple[bytes, Callable[[bytes], bytes]]:
    private = ec.generate_private_key(ec.SECP256R1())
    point = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def sign(data: bytes) -> bytes:
        numbers = decode_dss_signature(private.sign(data, ec.ECDSA(hashes.SHA256())))
        return pack_strings(*(n.to_bytes(n.bit_length() // 8 + 1, "big") for n in numbers))

    return pack_strings(b"nistp256", point), sign


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("sk-ssh-ed25519@openssh.com", ed25519_key),
        ("sk-ecdsa-sha2-nistp256@openssh.com", ecdsa_key),
    ],
)
def test_a_signature_of_a_key_in_hardware_is_verified(
    store: DatabaseStore, run_id: str, kind: str, make: Callable[..., Any], tmp_path: Path
) -> None:
    """The hardware is played by a key of the library, as PROTOCOL.u2f describes it."""
    key, sign = make()
    public_key = pack_strings(kind.encode()) + key + pack_strings(b"ssh:")
    data = signed_bytes(tt.text_to_sign(store, run_id).encode())
    touched = b"\x01" + (7).to_bytes(4, "big")
    hashed = hashlib.sha256(b"ssh:").digest() + touched + hashlib.sha256(data).digest()
    signature = pack_strings(kind.encode(), sign(hashed)) + touched
    made = SshSignature(public_key=public_key, signature=signature)
    (tmp_path / "run.sig").write_text(str(made))
    signers = allowed(tmp_path, f"ada {kind} {base64.b64encode(public_key).decode()}")

    tt.sign(store, run_id, signature=tmp_path / "run.sig")
    assert tt.check(store, run_id, signers=signers).ok
    assert verified_by_ssh(store, run_id, tmp_path / "run.sig", signers, "ada")
    (tmp_path / "run.sig").write_text(str(replace(made, signature=signature[:-1] + b"\x08")))
    with pytest.raises(SignatureError, match="did not sign"):
        tt.sign(store, run_id, signature=tmp_path / "run.sig")
