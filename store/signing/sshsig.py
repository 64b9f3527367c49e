"""The signature format of `ssh-keygen -Y sign`.

It is described in PROTOCOL.sshsig of OpenSSH. What the key signs is not the message but its hash,
with the namespace, so that a signature for one purpose is not valid for another.
"""

import base64
import hashlib
import re
from dataclasses import dataclass

from tokentape.store.signing.wire import SignatureError, WireReader, from_base64, pack_strings

NAMESPACE = "tokentape"
_MAGIC = b"SSHSIG"
_VERSION = 1
_HASHES = ("sha512", "sha256")
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_ARMOR = re.compile(rf"\s*{_BEGIN}\s([A-Za-z0-9+/=\s]*){_END}\s*")
_LINE_CHARS = 70
_TEXT_CHARS_MAX = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SshSignature:
    """A signature and the key that made it."""

    public_key: bytes
    """The key as SSH encodes it, with its type first."""
    signature: bytes
    """The algorithm and the bytes of the signature, as SSH encodes them."""
    namespace: str = NAMESPACE
    hash_name: str = _HASHES[0]

    def __str__(self) -> str:
        """Return it as `ssh-keygen -Y sign` writes it."""
        blob = _MAGIC + _VERSION.to_bytes(4, "big")
        blob += pack_strings(
            self.public_key,
            self.namespace.encode(),
            b"",
            self.hash_name.encode(),
            self.signature,
        )
        text = base64.b64encode(blob).decode()
        lines = [text[at : at + _LINE_CHARS] for at in range(0, len(text), _LINE_CHARS)]
        return "\n".join([_BEGIN, *lines, _END]) + "\n"

    def signed_bytes(self, message: bytes) -> bytes:
        """Return what the key signs for a message."""
        return signed_bytes(message, self.namespace, self.hash_name)


def signed_bytes(message: bytes, namespace: str = NAMESPACE, hash_name: str = _HASHES[0]) -> bytes:
    """Return what a key signs for a message."""
    digest = hashlib.new(hash_name, message).digest()
    return _MAGIC + pack_strings(namespace.encode(), b"", hash_name.encode(), digest)


def parse_signature(text: str) -> SshSignature:
    """Return the signature in a text of `ssh-keygen -Y sign`. Raise SignatureError."""
    found = _ARMOR.fullmatch(text) if len(text) <= _TEXT_CHARS_MAX else None
    if found is None:
        raise SignatureError(f"it is no SSH signature: it must begin with {_BEGIN}")
    blob = from_base64("".join(found[1].split()), "the signature")
    reader = WireReader(blob, "the signature")
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise SignatureError("it is no SSH signature")
    version = reader.uint32()
    if version != _VERSION:
        raise SignatureError(f"it is an SSH signature of version {version}, not {_VERSION}")
    public_key, namespace = reader.string(), reader.text()
    reader.string()
    hash_name = reader.text()
    signature = reader.string()
    reader.finish()
    if hash_name not in _HASHES:
        raise SignatureError(f"its hash {hash_name} is neither sha512 nor sha256")
    return SshSignature(
        public_key=public_key, signature=signature, namespace=namespace, hash_name=hash_name
    )
