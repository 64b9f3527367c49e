"""The command `sign`, and how signatures are printed."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.options import (
    JsonOption,
    RunArgument,
    Store,
    StoreOption,
    find_recording,
    locate_run,
    open_live,
    open_stored,
)
from tokentape.recorder.paths import expand_path
from tokentape.recorder.seals import check_seals
from tokentape.screen import err, out
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from tokentape.store.signing.signatures import SignatureCheck


def sign(
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    key: Annotated[
        Path | None,
        typer.Option(
            parser=expand_path, metavar="FILE", help="A private key: Ed25519, ECDSA or RSA."
        ),
    ] = None,
    signature: Annotated[
        Path | None,
        typer.Option(
            parser=expand_path,
            metavar="FILE",
            help="Instead of a key: a signature of the message by ssh-keygen -Y sign -n tokentape.",
        ),
    ] = None,
    message: Annotated[
        bool, typer.Option("--message", help="Only print the message that a signature signs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Sign the last seal of a run with an SSH key, and store the signature with the run."""
    if [key is not None, signature is not None, message].count(True) != 1:
        raise typer.BadParameter("give one of --key, --signature and --message")
    run, store = locate_run(run, store)
    if message:
        opened = open_stored(store)
        text = tt.text_to_sign(opened, find_recording(opened, run).run_id)
        if as_json:
            output.print_json({"message": text})
        else:
            out.text(text)
        return
    live = open_live(store)
    run_id = find_recording(live, run).run_id

    def passphrase() -> str:
        return err.secret(f"passphrase of {key}")

    made = tt.sign(live, run_id, key=key, signature=signature, passphrase=passphrase)
    if as_json:
        output.print_json({"run_id": run_id} | asdict(made))
    else:
        out.line(f"run {run_id}: {output.signature_text(made)}")


def check_signatures(
    opened: Store, recording: tt.Recording, signers: Path | None
) -> "list[SignatureCheck]":
    """Return the signatures of a run, compared with its events; these are read only if it has one.

    Raise SignatureError for a file of signers that cannot be read.
    """
    from tokentape.store.signing.signatures import check_signature, signatures_of
    from tokentape.store.signing.signers import Signers

    known = None if signers is None else Signers.read(signers)
    stored = signatures_of(opened, recording.run_id)
    if not stored:
        return []
    report = check_seals(recording.run_id, recording.records())
    return [check_signature(each, report, known) for each in stored]


def claimed_signatures(opened: Store, signers: Path | None) -> "dict[str, list[SignatureCheck]]":
    """Return the signatures of all runs by run id, not compared with their events.

    Raise SignatureError for a file of signers that cannot be read.
    """
    from tokentape.store.signing.signatures import REPLAY, check_signature, signatures_of
    from tokentape.store.signing.signers import Signers
    from tokentape.store.source import Selection

    known = None if signers is None else Signers.read(signers)
    rows = opened.verdicts_table(Selection(columns=("replay",))).to_pylist()
    signed = dict.fromkeys(row["run_id"] for row in rows if row["replay"] == REPLAY)
    return {
        run_id: [check_signature(each, None, known) for each in signatures_of(opened, run_id)]
        for run_id in signed
    }


def signatures_json(checked: "Iterable[SignatureCheck]") -> list[dict[str, Any]]:
    """Return signatures as `list --json` prints them: without their texts."""
    return [
        {"key": each.key, "signer": each.signer, "state": each.state, "reason": each.reason}
        for each in checked
    ]
