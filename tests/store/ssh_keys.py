"""SSH keys that ssh-keygen makes, files of signers, and its own check of a signature."""

import subprocess
from pathlib import Path

import tokentape as tt
from tokentape.store import DatabaseStore

TYPES = {
    "ed25519": ("ed25519",),
    "rsa": ("rsa", "-b", "2048"),
    "rsa as PEM": ("rsa", "-b", "2048", "-m", "PEM"),
    "256": ("ecdsa", "-b", "256"),
    "384": ("ecdsa", "-b", "384"),
    "521": ("ecdsa", "-b", "521"),
}


def make_key(folder: Path, name: str = "ada", kind: str = "ed25519", passphrase: str = "") -> Path:
    """Let ssh-keygen make a key; the public one is beside it, with the name as its comment."""
    path = folder / name
    words = ["ssh-keygen", "-q", "-t", *TYPES[kind], "-N", passphrase, "-C", name, "-f", str(path)]
    subprocess.run(words, check=True)
    return path


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def allowed(folder: Path, *lines: str) -> Path:
    path = folder / "allowed_signers"
    path.write_text("\n".join(lines) + "\n")
    return path


def verified_by_ssh(
    store: DatabaseStore, run_id: str, signature: Path, signers: Path, name: str
) -> bool:
    """Return whether `ssh-keygen -Y verify` accepts a signature of a run's last seal."""
    verify = ["ssh-keygen", "-Y", "verify", "-n", "tokentape", "-I", name]
    verify += ["-f", str(signers), "-s", str(signature)]
    text = tt.text_to_sign(store, run_id).encode()
    return subprocess.run(verify, input=text, capture_output=True).returncode == 0
