"""Logs of Inspect become conversations that are marked as without tokens."""

import zipfile
from pathlib import Path

import pytest

import tokentape as tt
from tests.integrations.test_imports import details, imported
from tokentape.store import DatabaseStore

pytest.importorskip("inspect_ai.log", reason="the extra `inspect` is not installed")


@pytest.fixture(params=["x.eval", "x.json"])
def log(
    request: pytest.FixtureRequest,
    runs: DatabaseStore,
    recordings: list[tt.Recording],
    tmp_path: Path,
) -> Path:
    return tt.export_eval(recordings, runs, tmp_path / request.param)


def test_a_sample_is_a_conversation(
    log: Path, recordings: list[tt.Recording], store: DatabaseStore
) -> None:
    copies = imported(store, log)
    by_sample = {str(each.imported().metadata["uuid"]): each for each in copies}  # type: ignore[union-attr]

    assert len(copies) == 3
    for recording in recordings:
        copy = by_sample[recording.run_id]
        assert copy.conversation() == recording.conversation()
        assert copy.started().model == "tiny-llama"


def test_log_probabilities_are_kept_without_ids(
    log: Path, runs: DatabaseStore, recordings: list[tt.Recording], store: DatabaseStore
) -> None:
    copies = imported(store, log)
    (copy,) = [
        each
        for each in copies
        if each.imported().metadata["uuid"] == recordings[0].run_id  # type: ignore[union-attr]
    ]
    tokens = tt.tokens_df(runs, recordings[0].run_id, dtype_backend="pyarrow")
    kept = [each for each in details(copy) if each.logprobs]

    assert [t["logprob"] for each in kept for t in each.logprobs] == tokens["logprob"].tolist()
    assert [t["token"] for each in kept for t in each.logprobs] == tokens["text"].tolist()
    assert kept[1].tool_calls[0]["name"] == "look_up"
    assert kept[0].details["usage"]["output_tokens"] == 4


def test_scores_and_errors_are_kept(log: Path, store: DatabaseStore) -> None:
    origins = [each.imported() for each in imported(store, log)]
    metadata = [dict(each.metadata) for each in origins if each is not None]

    (scored,) = [each["scores"]["verify"] for each in metadata if "scores" in each]
    assert scored["value"] == "verified"
    assert [each["error"] for each in metadata if "error" in each] == ["RuntimeError: enough"]


def test_importing_a_log_again_adds_nothing(log: Path, store: DatabaseStore) -> None:
    first, again = tt.import_runs(log, store), tt.import_runs(log, store)

    assert [each.added for each in first] == [True] * 3
    assert [each.added for each in again] == [False] * 3


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_log_that_is_cut_off_is_refused_in_one_line(
    share: float, log: Path, store: DatabaseStore
) -> None:
    content = log.read_bytes()
    log.write_bytes(content[: int(len(content) * share)])

    with pytest.raises(tt.TokentapeError) as caught:
        tt.import_runs(log, store)

    assert "\n" not in str(caught.value)
    assert store.summaries() == []


def test_a_log_with_a_flipped_byte_adds_nothing_or_is_refused(
    log: Path, store: DatabaseStore
) -> None:
    content, faults = bytearray(log.read_bytes()), []
    for at in range(40, len(content), len(content) // 12):
        content[at] ^= 0x41
        log.write_bytes(content)
        content[at] ^= 0x41
        try:
            tt.import_runs(log, store)
        except tt.TokentapeError as error:
            faults.append(str(error))

    assert faults
    assert not any("\n" in each for each in faults)


def test_a_log_that_unpacks_to_far_more_than_its_size_is_refused(
    store: DatabaseStore, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", "{}")
        with archive.open("samples/1_epoch_1.json", "w", force_zip64=True) as entry:
            for _ in range(100):
                entry.write(b" " * 2**20)

    with pytest.raises(tt.StoreError, match="TOKENTAPE_EXPANDED_BYTES_MAX"):
        tt.import_runs(path, store)


def test_a_file_that_only_begins_like_a_log_is_refused(
    store: DatabaseStore, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"version": 2, "status": "success", "eval": {"eval_id": "x"}}')

    with pytest.raises(tt.StoreError, match="cannot read the log") as caught:
        tt.import_runs(path, store)

    assert "\n" not in str(caught.value)
