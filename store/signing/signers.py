"""Files that say who a key belongs to: allowed_signers of OpenSSH, and public keys."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from tokentape.recorder.escapes import visible_lines
from tokentape.store.signing.keys import KEY_TYPES, fingerprint, key_type, read_small_file
from tokentape.store.signing.sshsig import NAMESPACE
from tokentape.store.signing.wire import SignatureError, from_base64

_OPTION = re.compile(r'([a-z-]+)(?:=(?:"([^"]*)"|([^",]*)))?(?:,|$)', re.IGNORECASE)
_WORD = re.compile(r'(?:"[^"]*"|[^\s"])+')
_KEY_TYPE = re.compile(r"(?:sk-)?(?:ssh|ecdsa)-[\w.@-]+")
_TIME_FORMATS = ("%Y%m%d", "%Y%m%d%H%M", "%Y%m%d%H%M%S")


@dataclass(frozen=True, slots=True)
class Signers:
    """The known keys, by the bytes of the key as SSH encodes them."""

    names: dict[bytes, str] = field(default_factory=dict)
    """Whose each key is."""
    refused: dict[bytes, str] = field(default_factory=dict)
    """Keys that the file names and does not accept now, and why."""

    @classmethod
    def read(cls, path: Path) -> "Signers":
        """Read a file of `allowed_signers`, or of public keys such as `https://github.com/U.keys`.

        In the latter a line begins with the type of the key; its comment, or the name of the file,
        is the signer's name. Keys for other namespaces and keys that are not valid now are refused,
        and certificate authorities are not supported. Raise SignatureError for any other file.
        """
        content = read_small_file(path, "the file of signers")
        try:
            lines = content.decode().splitlines()
        except UnicodeDecodeError:
            raise SignatureError(f"the file of signers {path} is not UTF-8") from None
        found = cls()
        for number, line in enumerate(lines, start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    found._add(line.strip(), path.stem)
                except SignatureError as error:
                    raise SignatureError(f"{path}, line {number}: {error}") from None
        if not found.names and not found.refused:
            raise SignatureError(f"the file of signers {path} has no key")
        return found

    def _add(self, line: str, file_name: str) -> None:
        words = _words(line)
        if _KEY_TYPE.fullmatch(words[0]):
            key = _key(words)
            self.names.setdefault(key, visible_lines(" ".join(words[2:]) or file_name))
            return
        principals, *rest = words
        options = rest.pop(0) if rest and not _KEY_TYPE.fullmatch(rest[0]) else ""
        key = _key(rest)
        why = _refusal(options)
        if rest[0] not in KEY_TYPES:
            why = f"keys of type {rest[0]} are not supported"
        if why:
            self.refused.setdefault(key, f"{visible_lines(principals)}: {why}")
        else:
            self.names.setdefault(key, visible_lines(principals))


def _words(line: str) -> list[str]:
    """Return the words of a line; whitespace in double quotes ends none."""
    if line.count('"') % 2:
        raise SignatureError("a quote does not end")
    words = (each[0] for each in _WORD.finditer(line))
    return [each.strip('"') if each.startswith('"') else each for each in words]


def _key(words: list[str]) -> bytes:
    if len(words) < 2:
        raise SignatureError("it names no key: a line is `PRINCIPALS [OPTIONS] TYPE KEY [COMMENT]`")
    key = from_base64(words[1], "the key")
    if key_type(key) != words[0]:
        raise SignatureError(f"the key {fingerprint(key)} is no key of type {words[0]}")
    return key


def _refusal(options: str) -> str:
    """Return why a key with these options is not accepted now; "" if it is."""
    at = 0
    while at < len(options):
        found = _OPTION.match(options, at)
        if found is None or found.end() == at:
            raise SignatureError(f"its options {options!r} cannot be read")
        at = found.end()
        name, value = found[1].lower(), found[2] if found[2] is not None else found[3] or ""
        if name == "cert-authority":
            return "certificate authorities are not supported"
        if name == "namespaces":
            if not any(fnmatchcase(NAMESPACE, each) for each in value.split(",")):
                return f"the key is for the namespaces {value}, not {NAMESPACE}"
        elif name in ("valid-after", "valid-before"):
            now, limit = datetime.now(UTC), _time(value)
            if (now < limit) if name == "valid-after" else (now >= limit):
                return f"the key is not valid now ({name}={value})"
        else:
            raise SignatureError(f"its option {name} is not known")
    return ""


def _time(value: str) -> datetime:
    """Return a time as `ssh-keygen` reads it: in UTC if it ends in Z, else that of the machine."""
    digits, zone = value.removesuffix("Z"), value[len(value.removesuffix("Z")) :]
    for each in _TIME_FORMATS:
        try:
            read = datetime.strptime(digits, each)
        except ValueError:
            continue
        # strptime takes single digits, too: the lengths tell the formats apart.
        if len(read.strftime(each)) == len(digits):
            return read.replace(tzinfo=UTC) if zone else read.astimezone()
    raise SignatureError(f"{value!r} is no time: write YYYYMMDD[HHMM[SS]][Z]")
