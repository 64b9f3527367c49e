"""A run is signed by an SSH key, and what no longer fits its signature is found."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.store.crash import record_script
from tests.store.forging import change_reply, connection_of, cut_after_turn
from tests.store.made_runs import begin, say
from tests.store.ssh_keys import TYPES, allowed, make_key, public, verified_by_ssh
from tests.tampering import without_triggers
from tokentape.store import DatabaseStore
from tokentape.store.signing.signatures import SignatureState
from tokentape.store.signing.wire import SignatureError


def only(store: Any, run_id: str, **given: Any) -> Any:
    (found,) = tt.check(store, run_id, **given).signatures
    return found


@pytest.mark.parametrize("kind", TYPES)
def test_keys_of_ssh_keygen_sign_and_ssh_keygen_verifies(
    store: DatabaseStore, run_id: str, kind: str, key_of: Callable[[str], Path], tmp_path: Path
) -> None:
    key = key_of(kind)
    made = tt.sign(store, run_id, key=key)
    signers = allowed(tmp_path, f"ada@example.org {public(key).read_text()}")
    (tmp_path / "run.sig").write_text(made.signature)

    assert verified_by_ssh(store, run_id, tmp_path / "run.sig", signers, "ada@example.org")
    assert tt.check(store, run_id, signers=signers).ok
    assert only(store, run_id, signers=signers).signer == "ada@example.org"
    assert made.message == tt.text_to_sign(store, run_id)
    listed = subprocess.run(["ssh-keygen", "-lf", str(public(key))], capture_output=True, text=True)
    assert made.key in listed.stdout


@pytest.mark.parametrize(
    ("kind", "hash_name"), [*((kind, "sha512") for kind in TYPES), ("ed25519", "sha256")]
)
def test_a_signature_of_ssh_keygen_is_taken(
    store: DatabaseStore,
    run_id: str,
    kind: str,
    hash_name: str,
    key_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    key, message = key_of(kind), tmp_path / "message"
    message.write_text(tt.text_to_sign(store, run_id))
    sign = ["ssh-keygen", "-q", "-Y", "sign", "-n", "tokentape", "-O", f"hashalg={hash_name}"]
    subprocess.run([*sign, "-f", str(key), str(message)], check=True, capture_output=True)
    made = tt.sign(store, run_id, signature=tmp_path / "message.sig")

    assert made.state is SignatureState.FITS
    assert tt.check(store, run_id, signers=public(key)).ok


def test_the_text_that_is_signed_binds_run_seal_events_and_turns(
    store: DatabaseStore, run_id: str
) -> None:
    found = tt.check(store, run_id)

    assert tt.text_to_sign(store, run_id) == (
        f"tokentape signature 1\nrun {run_id}\nseal {found.last_seal}\n"
        f"events {found.events}\nturns 3\n"
    )


def test_a_signature_travels_with_every_copy(
    store: DatabaseStore, run_id: str, key: Path, tmp_path: Path
) -> None:
    tt.sign(store, run_id, key=key)
    recording = store.recording(run_id)
    tape = tt.pack([recording], store, tmp_path / "a.tape")
    tt.export_parquet(recording, store, tmp_path / "sealed")
    lines = tt.export_jsonl([recording], store, tmp_path / "a.jsonl")
    for copy in (tape, tmp_path / "sealed"):
        with tt.open_store(copy) as opened:
            assert tt.check(opened, run_id, signers=public(key)).ok
    for copy in (tape, tmp_path / "sealed", lines):
        with tt.open_store("sqlite://") as other:
            assert isinstance(other, DatabaseStore)
            tt.import_runs(copy, other)
            assert tt.check(other, run_id, signers=public(key)).ok
            other.erase(run_id)
            assert other.verdicts(run_id) == []


def test_signing_adds_no_event_and_signs_a_seal_once(
    store: DatabaseStore, run_id: str, key: Path
) -> None:
    before = tt.check(store, run_id)
    first, second = tt.sign(store, run_id, key=key), tt.sign(store, run_id, key=key)
    after = tt.check(store, run_id)

    assert (after.events, after.last_seal) == (before.events, before.last_seal)
    assert first == second == after.signatures[0]
    assert len(after.signatures) == 1


def test_an_unknown_key_is_told_from_a_signature_that_does_not_fit(
    store: DatabaseStore, run_id: str, key: Path, tmp_path: Path
) -> None:
    tt.sign(store, run_id, key=key)
    other = make_key(tmp_path, "bob")

    assert tt.check(store, run_id).ok
    unknown = tt.check(store, run_id, signers=public(other))
    assert (unknown.faults, unknown.unmet) == ((), ("no known key has signed the run",))
    assert unknown.signatures[0].state is SignatureState.FITS
    assert unknown.signatures[0].signer is None
    change_reply(store, run_id, 3, "what it never said")
    altered = tt.check(store, run_id, signers=public(key))
    assert altered.signatures[0].state is SignatureState.DOES_NOT_FIT
    assert "altered or its end was removed after it was signed" in altered.faults[0]
    assert altered.unmet == ("no known key has signed the run",)


@pytest.mark.parametrize("attack", [change_reply, cut_after_turn])
def test_a_run_that_was_altered_and_sealed_again_no_longer_fits(
    store: DatabaseStore, run_id: str, key: Path, attack: Callable[..., None]
) -> None:
    tt.sign(store, run_id, key=key)
    attack(store, run_id, 2, *(["what it never said"] if attack is change_reply else []))

    assert not tt.check(store, run_id).ok
    assert only(store, run_id).state is SignatureState.DOES_NOT_FIT


def test_the_signature_of_an_earlier_turn_covers_that_much(store: DatabaseStore, key: Path) -> None:
    recorder = begin(store)
    say(recorder, 1, tokens=2)
    tt.sign(store, recorder.run_id, key=key)
    say(recorder, 2, tokens=2)
    found = tt.check(store, recorder.run_id, signers=public(key))

    assert not found.ok
    assert found.faults == ()
    assert found.signatures[0].state is SignatureState.FITS_BEGINNING
    assert found.signatures[0].last_turn == 1
    assert found.unmet[0].startswith("the signature of ada covers only the beginning: ")
    assert tt.check(store, recorder.run_id).ok
    tt.sign(store, recorder.run_id, key=key)
    assert tt.check(store, recorder.run_id, signers=public(key)).ok


def test_a_key_with_a_passphrase_asks_for_it(
    store: DatabaseStore, run_id: str, tmp_path: Path
) -> None:
    key = make_key(tmp_path, passphrase="open sesame")

    with pytest.raises(SignatureError, match="cannot read the key"):
        tt.sign(store, run_id, key=key)
    with pytest.raises(SignatureError, match="the passphrase is wrong"):
        tt.sign(store, run_id, key=key, passphrase=lambda: "sesame")
    assert tt.sign(store, run_id, key=key, passphrase=lambda: "open sesame").is_right


def test_what_is_no_key_is_refused_in_one_line(
    store: DatabaseStore, run_id: str, key: Path, tmp_path: Path
) -> None:
    def refused(path: Path, why: str) -> None:
        with pytest.raises(SignatureError, match=why) as raised:
            tt.sign(store, run_id, key=path)
        assert "\n" not in str(raised.value)

    refused(tmp_path / "none", "cannot read the key")
    refused(tmp_path, "is no file|directory")
    refused(public(key), "is a public key: name the private one")
    (tmp_path / "words").write_text("words")
    refused(tmp_path / "words", "is no key")
    cut = tmp_path / "cut"
    cut.write_text("\n".join(key.read_text().splitlines()[:3]))
    refused(cut, "cannot read the key")
    subprocess.run(["mkfifo", str(tmp_path / "pipe")], check=True)
    refused(tmp_path / "pipe", "is a device or a pipe")
    small = tmp_path / "small"
    made = ["openssl", "genrsa", "-out", str(small), "1024"]
    if subprocess.run(made, capture_output=True).returncode == 0:
        refused(small, "1024 bits is too short")


def test_an_altered_or_unsealed_run_is_not_signed(
    store: DatabaseStore, run_id: str, key: Path
) -> None:
    with pytest.raises(SignatureError, match="none of its turns is sealed yet"):
        tt.sign(store, begin(store).run_id, key=key)
    change_reply(store, run_id, 2, "first")
    with without_triggers(connection_of(store)) as rows:
        rows.execute("UPDATE events SET seal = 'x' WHERE kind = 'TurnFinished'")
    with pytest.raises(SignatureError, match="it is altered"):
        tt.sign(store, run_id, key=key)


SIGNERS = {
    "a public key": ("{key}", "ada"),
    "keys of a forge": ("{bare}", "allowed_signers"),
    "comments and empty lines": ("# whose\n\n  ada@x {key}", "ada@x"),
    "several principals": ("ada@x,bob@y {key}", "ada@x,bob@y"),
    "a quoted principal": ('"ada x" {key}', "ada x"),
    "the namespace": ('ada namespaces="git,tokentape" {key}', "ada"),
    "a pattern of namespaces": ('ada namespaces="*" {key}', "ada"),
    "a time that is now": (
        'ada valid-after="20200101Z",valid-before="20990101120000" {key}',
        "ada",
    ),
    "other namespaces": ('ada namespaces="git,file" {key}', None),
    "a time in the past": ('ada valid-before="20200101" {key}', None),
    "a time in the future": ("ada valid-after=209901010000Z {key}", None),
    "a certificate authority": ("ada cert-authority {key}", None),
}


@pytest.mark.parametrize("form", SIGNERS)
def test_a_file_of_signers_is_read_as_ssh_keygen_reads_it(
    store: DatabaseStore, run_id: str, key: Path, tmp_path: Path, form: str
) -> None:
    template, signer = SIGNERS[form]
    line = public(key).read_text().strip()
    signers = allowed(tmp_path, template.format(key=line, bare=line.rpartition(" ")[0]))
    tt.sign(store, run_id, key=key)
    found = tt.check(store, run_id, signers=signers)

    assert found.signatures[0].signer == signer
    assert found.ok == (signer is not None)
    if signer is None:
        assert found.unmet[0].startswith("the signer is not accepted: ada: ")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "has no key"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"ada", "names no key"),
        (b"ada ssh-ed25519 ????", "is not base64"),
        (b"ada ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIA==", "is no key of type ssh-rsa"),
        (b'ada namespaces="x ssh-ed25519 AAAA', "a quote does not end"),
        (b"ada valid-before=soon ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "is no time"),
        (b"ada verify-required=1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "is not known"),
        (b"#" * (1024**2 + 1), "more than 1,048,576 bytes"),
    ],
)
def test_a_file_of_signers_that_cannot_be_read_is_bad_input(
    store: DatabaseStore, run_id: str, tmp_path: Path, content: bytes, why: str
) -> None:
    path = tmp_path / "signers"
    path.write_bytes(content)

    with pytest.raises(SignatureError, match=why):
        tt.check(store, run_id, signers=path)


def test_without_the_library_a_check_says_so(
    store: DatabaseStore, run_id: str, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tt.sign(store, run_id, key=key)
    monkeypatch.setitem(sys.modules, "cryptography", None)

    assert tt.check(store, run_id).ok
    assert only(store, run_id).state is SignatureState.UNCHECKED
    for use in (
        lambda: tt.check(store, run_id, signers=public(key)),
        lambda: tt.sign(store, run_id, key=key),
    ):
        with pytest.raises(SignatureError, match=r"pip install 'tokentape\[signing\]'"):
            use()


def test_the_commands_say_who_signed(
    tmp_path: Path, key: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    where = tmp_path / "runs.db"
    with tt.open_store(where) as store:
        assert isinstance(store, DatabaseStore)
        run_id = record_script(store, "a run", turns=2, seed=1)
    at, known = ("--store", str(where)), ("--signers", str(public(key)))
    code, message, _ = cli("sign", "--message", *at)
    assert (code, message.splitlines()[1]) == (0, f"run {run_id}")
    assert cli("check", *known, *at)[:2][0] == 1
    assert cli("sign", *at)[0] == cli("sign", "--key", str(key), "--message", *at)[0] == 2
    code, told, _ = cli("sign", "--key", str(key), *at)
    assert (code, told.startswith(f"run {run_id}: signed by an unknown key (SHA256:")) == (0, True)
    tape = tmp_path / "a.tape"
    assert cli("pack", run_id, "--output", str(tape), *at)[0] == 0
    for place in (at, ("--store", str(tape))):
        for command in ("show", "check"):
            assert "signed by ada (SHA256:" in cli(command, *known, *place)[1]
            assert "signed by an unknown key (SHA256:" in cli(command, *place)[1]
        (row,) = json.loads(cli("list", "--json", *known, *place)[1])
        (listed,) = row["signatures"]
        assert (listed["signer"], listed["state"]) == ("ada", "not_compared")
        shown = json.loads(cli("show", "--json", *known, *place)[1])["signatures"]
        assert shown == [listed | {"state": "fits"}]
        checked = json.loads(cli("check", "--json", *known, *place)[1])
        assert (checked["ok"], checked["signatures"][0]["message"]) == (True, message)
        assert cli("check", *known, *place)[0] == 0
    assert cli("sign", "--key", str(key), "--store", str(tape))[0] == 2
