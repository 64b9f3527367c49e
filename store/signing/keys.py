"""SSH keys: reading, signing and verifying with the library cryptography.

It is imported when a key is used: `pip install tokentape[signing]`.
"""

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokentape.recorder.foreign_files import foreign_file
from tokentape.store.signing.wire import SignatureError, WireReader, pack_strings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

FILE_BYTES_MAX = 1024**2
RSA_BITS_MIN = 2048
_CURVES = {"nistp256": "SECP256R1", "nistp384": "SECP384R1", "nistp521": "SECP521R1"}
_RSA_HASHES = {"rsa-sha2-512": "SHA512", "rsa-sha2-256": "SHA256"}
_HARDWARE = ("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com")
KEY_TYPES = ("ssh-ed25519", "ssh-rsa", *(f"ecdsa-sha2-{curve}" for curve in _CURVES), *_HARDWARE)
"""The types of keys whose signatures can be verified."""


def check_installed() -> None:
    """Raise SignatureError if the library cryptography is missing."""
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise SignatureError(
            "signatures need the library cryptography: pip install 'tokentape[signing]'"
        ) from None


def fingerprint(public_key: bytes) -> str:
    """Return the fingerprint of a key as `ssh-keygen -l` prints it."""
    digest = base64.b64encode(hashlib.sha256(public_key).digest()).decode()
    return f"SHA256:{digest.rstrip('=')}"


def key_type(public_key: bytes) -> str:
    """Return the type of a key, such as `ssh-ed25519`. Raise SignatureError for none."""
    return WireReader(public_key, "the key").text()


def read_small_file(path: Path, what: str) -> bytes:
    """Return the content of a file of at most 1 MiB. Raise SignatureError."""
    try:
        if path.exists() and not path.is_file():
            raise SignatureError(f"{what} {path} {foreign_file(path) or 'is no file'}")
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise SignatureError(f"cannot read {what} {path}: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise SignatureError(f"{what} {path} has more than {FILE_BYTES_MAX:,} bytes")
    return content


class PrivateKey:
    """A key that signs: Ed25519, ECDSA or RSA."""

    def __init__(self, path: Path, passphrase: Callable[[], str] | None = None) -> None:
        """Read a key of OpenSSH or a PEM file; `passphrase` is called if it is encrypted.

        Raise SignatureError for any other file, a wrong passphrase, and a key in hardware.
        """
        check_installed()
        self._key = _load_private(path, passphrase)
        self.public_key = _public_bytes(self._key)
        kind = key_type(self.public_key)
        if kind not in KEY_TYPES:
            raise SignatureError(f"{path} is a key of type {kind}: use Ed25519, ECDSA or RSA")
        if kind == "ssh-rsa":
            _check_rsa(self._key)

    def sign(self, data: bytes) -> bytes:
        """Return the algorithm and the bytes of a signature, as SSH encodes them."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        kind = key_type(self.public_key)
        if kind == "ssh-rsa":
            made = self._key.sign(data, padding.PKCS1v15(), hashes.SHA512())
            return pack_strings(b"rsa-sha2-512", made)
        if kind == "ssh-ed25519":
            return pack_strings(kind.encode(), self._key.sign(data))
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(_hash_of_curve(kind))))
        return pack_strings(kind.encode(), pack_strings(_mpint(r), _mpint(s)))


def is_signed_by(public_key: bytes, signature: bytes, data: bytes) -> bool:
    """Return whether a key made a signature of `data`; both are as SSH encodes them.

    For a key in hardware the signature also covers a counter and flags, such as whether the key was
    touched (PROTOCOL.u2f of OpenSSH); these are not checked. Raise SignatureError for a type of key
    that is not in `KEY_TYPES` and for a key or signature that is damaged.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    kind = key_type(public_key)
    if kind not in KEY_TYPES:
        raise SignatureError(f"signatures by keys of type {kind} cannot be verified")
    try:
        _verify(kind, public_key, signature, data)
    except InvalidSignature:
        return False
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"the key or the signature is damaged: {error}") from None
    return True


def _load_private(path: Path, passphrase: Callable[[], str] | None) -> Any:
    from cryptography.hazmat.primitives.serialization import (
        load_pem_private_key,
        load_ssh_private_key,
    )

    content = read_small_file(path, "the key")
    if b"PRIVATE KEY-----" not in content:
        hint = "is a public key: name the private one" if path.suffix == ".pub" else "is no key"
        raise SignatureError(f"{path} {hint}")
    load = load_ssh_private_key if b"BEGIN OPENSSH" in content else load_pem_private_key
    try:
        return _load(load, path, content, None)
    except _EncryptedError as error:
        if passphrase is None:
            raise SignatureError(f"cannot read the key {path}: {error}") from None
    try:
        return _load(load, path, content, passphrase().encode())
    except _EncryptedError as error:
        raise SignatureError(
            f"cannot read the key {path}: the passphrase is wrong, or {error}"
        ) from None


class _EncryptedError(Exception):
    """A key needs a passphrase, or another one."""


def _load(load: Callable[..., Any], path: Path, content: bytes, password: bytes | None) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load(content, password)
    except UnsupportedAlgorithm as error:
        raise SignatureError(
            f"cannot sign with the key {path}: {error}; with a key in hardware or in an agent, "
            "sign by ssh-keygen and give --signature"
        ) from None
    except (TypeError, ValueError) as error:
        # Releases of the library differ in the class of "the key is password-protected".
        if password is not None or "password" in str(error):
            raise _EncryptedError(str(error)) from None
        raise SignatureError(f"cannot read the key {path}: {error}") from None


def _public_bytes(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    except (AttributeError, TypeError, ValueError) as error:
        raise SignatureError(f"a key of this type cannot sign: {error}") from None
    return base64.b64decode(line.split()[1])


def _check_rsa(key: "RSAPrivateKey | RSAPublicKey") -> None:
    if key.key_size < RSA_BITS_MIN:
        raise SignatureError(
            f"an RSA key of {key.key_size} bits is too short: {RSA_BITS_MIN} or more"
        )


def _verify(kind: str, public_key: bytes, signature: bytes, data: bytes) -> None:
    """Raise InvalidSignature for a signature that the key did not make."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    reader = WireReader(signature, "the signature")
    algorithm, made = reader.text(), reader.string()
    if kind in _HARDWARE:
        data = _hardware_data(public_key, reader, data)
    reader.finish()
    if kind == "ssh-rsa":
        key: Any = load_ssh_public_key(b"ssh-rsa " + base64.b64encode(public_key))
        _check_rsa(key)
        if algorithm not in _RSA_HASHES:
            raise SignatureError(f"RSA signatures of type {algorithm} are not accepted")
        key.verify(made, data, padding.PKCS1v15(), getattr(hashes, _RSA_HASHES[algorithm])())
        return
    if algorithm != kind:
        raise SignatureError(f"a key of type {kind} makes no signature of type {algorithm}")
    parts = WireReader(public_key, "the key")
    parts.text()
    is_ecdsa = "ecdsa" in kind
    curve_name = parts.text() if is_ecdsa else ""
    if is_ecdsa and (curve_name not in _CURVES or curve_name not in kind):
        raise SignatureError(f"a key of type {kind} has no curve {curve_name}")
    point_bytes = parts.string()
    if kind in _HARDWARE:
        parts.string()
    parts.finish()
    if not is_ecdsa:
        ed25519.Ed25519PublicKey.from_public_bytes(point_bytes).verify(made, data)
        return
    curve = getattr(ec, _CURVES[curve_name])()
    numbers = WireReader(made, "the signature")
    r, s = (int.from_bytes(numbers.string(), "big") for _ in range(2))
    numbers.finish()
    point = ec.EllipticCurvePublicKey.from_encoded_point(curve, point_bytes)
    point.verify(encode_dss_signature(r, s), data, ec.ECDSA(_hash_of_curve(kind)))


def _hardware_data(public_key: bytes, reader: WireReader, data: bytes) -> bytes:
    """Return what a key in hardware signs: hashes, with the flags and counter of the signature."""
    parts = WireReader(public_key, "the key")
    for _ in range(2 if key_type(public_key) == _HARDWARE[0] else 3):
        parts.string()
    application = parts.string()
    flags_and_counter = reader.take(5)
    hashed = hashlib.sha256(application).digest(), hashlib.sha256(data).digest()
    return hashed[0] + flags_and_counter + hashed[1]


def _hash_of_curve(kind: str) -> Any:
    from cryptography.hazmat.primitives import hashes

    if kind.endswith("nistp384"):
        return hashes.SHA384()
    return hashes.SHA512() if kind.endswith("nistp521") else hashes.SHA256()


def _mpint(number: int) -> bytes:
    """Return a positive number as SSH encodes it: its first bit is that of the sign."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")
