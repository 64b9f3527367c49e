"""Single bits flipped in every format: what is read is right, or the damage is reported."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, random_ids, tiny_model
from tests.store.crash import record_script
from tests.torture.tally import Row, Torture, run_attacks
from tokentape.store import DatabaseStore

_GREEDY = {"do_sample": False, "max_new_tokens": 6}


def flips(torture: Torture) -> Iterator[Row]:
    """Flip bits in a SQLite file, a tape, a sealed folder, JSON Lines and a stored prefix."""
    yield from run_attacks(torture, _sqlite, _sealed, _json_lines, _prefix)


def _sqlite(torture: Torture) -> Iterator[Row]:
    harness = importlib.import_module("tests.store.flips_sqlite")
    row = Row("flip: SQLite")
    count = torture.count(500)
    with row.attempt("flips"):
        figures = harness.flip_bits(torture.folder, count, torture.seed)
        row.tried, row.silent = count, len(figures.silent)
        row.unexpected = len(figures.unexpected) + len(figures.hung)
        row.remark = f"{figures.detected.total()} found, {figures.harmless} equal"
        for each in (*figures.silent, *figures.unexpected, *figures.hung):
            row.note(each)
    yield row


def _sealed(torture: Torture) -> Iterator[Row]:
    harness = importlib.import_module("tests.store.flips_sealed")
    (torture.folder / "sound").mkdir()
    for sound in harness.make_sound(torture.folder / "sound"):
        row = Row("flip: sealed folder" if sound.is_dir() else "flip: tape")
        scratch = torture.folder / row.kind.replace(": ", "-").replace(" ", "-")
        scratch.mkdir()
        count = torture.count(500)
        with row.attempt("flips"):
            figures = harness.damage_sealed(sound, scratch, count, seed=torture.seed)
            row.tried, row.silent = count, figures.counts["silent"]
            row.unexpected, row.remark = figures.counts["unexpected"], str(figures)
            for each in figures.faults:
                row.note(each)
        yield row


def _json_lines(torture: Torture) -> Iterator[Row]:
    chance, row = torture.random(), Row("flip: JSON Lines")
    path = torture.folder / "damaged.jsonl"
    with tt.open_store("sqlite://") as store:
        assert isinstance(store, DatabaseStore)
        run_id = record_script(store, "a run", turns=3, seed=1)
        records = list(store.recording(run_id).records())
        content = tt.export_jsonl([store.recording(run_id)], store, path).read_bytes()
    for _ in range(torture.count(500)):
        changed = bytearray(content)
        at, bit = chance.randrange(len(content)), chance.randrange(8)
        changed[at] ^= 1 << bit
        path.write_bytes(changed)
        with row.attempt(f"bit {bit} of byte {at}", may_refuse=True):
            _import_lines(path, run_id, records)
    yield row


def _import_lines(path: Path, run_id: str, records: list[object]) -> None:
    with tt.open_store("sqlite://") as store:
        assert isinstance(store, DatabaseStore)
        (imported,) = tt.import_runs(path, store)
        found = tt.check(store, imported.run_id)
        equal = list(store.recording(imported.run_id).records()) == records
        assert (equal and imported.run_id == run_id) or found.faults, "other events were imported"


def _prefix(torture: Torture) -> Iterator[Row]:
    with mock.patch.dict(os.environ, {"TOKENTAPE_PREFIX_KEY": str(torture.folder / "key")}):
        yield _flipped_prefix(torture)


def _flipped_prefix(torture: Torture) -> Row:
    chance, row = torture.random(), Row("flip: stored prefix")
    lm, prompt = tiny_model("llama", byte_tokenizer()), random_ids(50, 1)

    key = torture.folder / "key"
    key.write_bytes(chance.randbytes(32))

    def engine(folder: Path | None) -> tt.ManualGenerator:
        return tt.ManualGenerator(lm.model, lm.tokenizer, prefix_folder=folder)

    stored = torture.folder / "stored"
    first = engine(stored)
    longer = [*prompt, *first.generate(prompt, **_GREEDY)["generated_tokens"], 9]
    first.store_prefix()
    (file,) = stored.iterdir()
    content, truth = file.read_bytes(), engine(None).generate(longer, **_GREEDY)
    used = 0
    for _ in range(torture.count(150)):
        changed = bytearray(content)
        at, bit = chance.randrange(len(content)), chance.randrange(8)
        changed[at] ^= 1 << bit
        file.write_bytes(changed)
        with row.attempt(f"bit {bit} of byte {at}"):
            again = engine(stored).generate(longer, **_GREEDY)
            used += again["cache"].source == "disk"
            assert again["generated_tokens"] == truth["generated_tokens"], "other tokens"
    row.remark = f"{used} with the stored prefix, its padding flipped"
    return row
