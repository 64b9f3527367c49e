"""A model is not hashed again while its files and its tensors are as they were."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from tokentape.generation.fingerprints import (
    LoadedFiles,
    TensorFingerprint,
    WeightsManifest,
    known,
    model_files,
    stamps_of,
    weights_of,
)
from tokentape.generation.fingerprints.kept_lists import find_list, keep_list
from tokentape.generation.fingerprints.weights import list_weights

ROOT = Path(__file__).parents[2]
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
FORGED = WeightsManifest.of(
    [TensorFingerprint(name="forged", dtype="float32", shape=(1,), digest="ab" * 16)]
)


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of lists, for this test alone, and worth its while for the smallest model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(known, "_WORTH_KEEPING_BYTES", 0)
    return tmp_path / "cache" / "tokentape" / "fingerprints"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A model to write to."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def forged(lists: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kept list that nobody would get from the tensors: whoever gets it, got what was kept."""
    with monkeypatch.context() as patched:
        patched.setattr(known, "list_weights", lambda model: FORGED)
        assert listed(folder) == FORGED
    return folder


def listed(folder: Path, **settings: Any) -> WeightsManifest:
    return tt.load_model(folder, **settings).identity.weights


def entry_of(lists: Path) -> Path:
    (path,) = lists.iterdir()
    return path


def test_the_list_of_files_that_are_as_they_were_is_taken_as_it_was_kept(forged: Path) -> None:
    assert listed(forged) == FORGED


def test_whoever_holds_the_model_gets_the_kept_list(forged: Path) -> None:
    lm = tt.load_model(forged)
    other = tt.LoadedModel(lm.model, lm.tokenizer, "another name")

    assert other.identity.weights == FORGED


def test_what_is_kept_is_what_the_tensors_give(lists: Path, folder: Path) -> None:
    first = listed(folder)
    before = entry_of(lists).read_bytes()

    assert first == list_weights(tt.load_model(folder).model)
    assert listed(folder) == first
    assert entry_of(lists).read_bytes() == before


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def written_anew(path: Path) -> None:
    """The same name, size and time; even the same bytes."""
    found = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def replaced(path: Path) -> None:
    shutil.copy2(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("change", [touched, written_anew, replaced])
def test_a_file_that_was_written_is_read_anew_and_its_old_list_is_gone(
    lists: Path, forged: Path, name: str, change: Callable[[Path], None]
) -> None:
    change(forged / name)
    found = listed(forged)

    assert found == list_weights(tt.load_model(forged).model)
    assert b"forged" not in entry_of(lists).read_bytes()


def test_another_way_to_load_it_is_another_list(lists: Path, forged: Path) -> None:
    half = listed(forged, dtype="bfloat16")

    assert {each.dtype for each in half.tensors} == {"bfloat16"}
    assert listed(forged, dtype=torch.bfloat16) == half
    assert listed(forged, attn_implementation="eager") != FORGED
    assert len(list(lists.iterdir())) == 4
    assert listed(forged) == FORGED


def rounded(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()


def rounded_in_place(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data.bfloat16())


def noisy(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1 + 1e-4 * torch.randn_like(parameter))


CHANGES = {
    "scaled past torch": lambda model: model.get_parameter(Q_PROJ).data.mul_(1.01),
    "noise past torch": noisy,
    "rounded past torch": rounded_in_place,
    "a row past torch": lambda model: model.get_parameter(Q_PROJ).data[5].zero_(),
    "a column past torch": lambda model: model.get_parameter(Q_PROJ).data[:, 7].zero_(),
    "through numpy": lambda model: model.get_parameter(Q_PROJ).detach().numpy().fill(1.0),
    "rounded": rounded,
    "one number": lambda model: model.get_parameter(Q_PROJ).detach()[3, 3].add_(1.0),
    "type": lambda model: model.to(torch.float16),
    "type and back": lambda model: model.to(torch.float64).to(torch.float32),
}


@pytest.mark.parametrize("used_before", [True, False])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_tensor_that_was_touched_is_hashed(
    forged: Path, change: Callable[[Any], object], used_before: bool
) -> None:
    lm = tt.load_model(forged)
    if used_before:
        assert lm.identity.weights == FORGED
    change(lm.model)

    assert lm.identity.weights == list_weights(lm.model)


def test_a_copy_of_a_model_is_not_what_was_loaded(forged: Path) -> None:
    copied = copy.deepcopy(tt.load_model(forged).model)

    assert weights_of(copied) == list_weights(copied)


def test_a_model_whose_files_were_written_since_is_hashed(forged: Path) -> None:
    lm = tt.load_model(forged)
    touched(forged / "model.safetensors")

    assert lm.identity.weights == list_weights(lm.model)


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A change to what the entry says, or to its sum."""

    def edit(path: Path) -> None:
        described = json.loads(path.read_bytes())
        change(described)
        path.write_text(json.dumps(described))

    return edit


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "no object": lambda path: path.write_bytes(b"[1]"),
    "deep": lambda path: path.write_bytes(b"[" * 200_000),
    "half an object": lambda path: path.write_bytes(b'{"sha256": ""}'),
    "a folder": made_a_folder,
    "a number of another kind": edited(lambda entry: entry.update(entry=5)),
    "list": edited(lambda entry: entry["entry"].update(list=FORGED.payload.decode() + " ")),
    "sample": edited(lambda entry: entry["entry"].update(sample="00" * 16)),
    "files": edited(lambda entry: entry["entry"].update(made_of={})),
    "format": edited(lambda entry: entry["entry"].update(format="of tomorrow")),
    "sum": edited(lambda entry: entry.update(sha256="00" * 32)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_whatever_is_wrong_with_what_was_kept_is_a_miss(
    lists: Path, forged: Path, damage: Callable[[Path], object]
) -> None:
    damage(entry_of(lists))
    lm = tt.load_model(forged)

    assert lm.identity.weights == list_weights(lm.model)


def test_where_nothing_can_be_kept_the_model_is_hashed(
    lists: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", Path("/dev/null"), Path("a\nb") / ("x" * 300)):
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        assert len(listed(folder).tensors) == 30
    assert not lists.exists()


def test_a_small_model_is_not_worth_a_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    listed(folder)

    assert not (tmp_path / "cache").exists()


def test_only_the_lists_that_were_used_last_stay(tmp_path: Path) -> None:
    lists, model = tmp_path / "lists", tmp_path / "model.safetensors"
    model.write_bytes(b"weights")
    stamps = stamps_of([model])
    used = LoadedFiles(stamps=stamps, settings={"number": "used"})
    keep_list(lists, used, "sample", FORGED)
    (lists / ".writing-by-one-that-was-killed").write_bytes(b"{")
    (lists / "mine.txt").write_text("not ours")
    for path in lists.iterdir():
        os.utime(path, ns=(1, 1))
    for number in range(130):
        assert find_list(lists, used, "sample") == FORGED
        files = LoadedFiles(stamps=stamps, settings={"number": str(number)})
        keep_list(lists, files, "sample", FORGED)

    assert len(list(lists.iterdir())) == 101
    assert (lists / "mine.txt").exists()
    assert not list(lists.glob(".writing-*"))
    assert find_list(lists, used, "sample") == FORGED


def keep_and_find(lists: Path, model: Path) -> int:
    """How often a list was not found right after it was kept."""
    weights = WeightsManifest.of(
        TensorFingerprint(name=f"layers.{n}.weight", dtype="float32", shape=(n,), digest="cd" * 16)
        for n in range(100)
    )
    files = LoadedFiles(stamps=stamps_of([model]), settings={})
    misses = 0
    for _ in range(100):
        keep_list(lists, files, "sample", weights)
        found = find_list(lists, files, "sample")
        assert found in (None, weights)
        misses += found is None
    return misses


SECOND_PROCESS = """
import sys
from pathlib import Path
from tests.generation.test_kept_lists import keep_and_find
print("begins", flush=True)
print(keep_and_find(*map(Path, sys.argv[1:])))
"""


def test_two_processes_that_keep_the_same_list_see_it_whole(tmp_path: Path) -> None:
    lists, model = tmp_path / "lists", tmp_path / "model.safetensors"
    model.write_bytes(b"weights")
    command = [sys.executable, "-c", SECOND_PROCESS, str(lists), str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begins\n"
        assert keep_and_find(lists, model) == 0
        assert other.communicate()[0] == "0\n"

    assert [each.suffix for each in lists.iterdir()] == [".json"]


def test_a_model_of_the_hub_is_known_by_the_files_of_its_snapshot(
    lists: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    repository = hub / "models--somebody--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_folder, snapshot)
    (repository / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(repository / "blobs" / "abc")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    found = tt.load_model("somebody/tiny").identity.weights
    entry = json.loads(entry_of(lists).read_bytes())["entry"]

    assert found == list_weights(tt.load_model(tiny_folder).model)
    assert str(repository / "blobs" / "abc") in {each["path"] for each in entry["made_of"]["files"]}


def test_an_adapter_is_not_known_by_its_own_files(folder: Path) -> None:
    assert {Path(each.path).name for each in model_files(folder)} >= {
        "config.json",
        "model.safetensors",
    }
    (folder / "adapter_config.json").write_text("{}")

    assert model_files(folder) == ()
    assert model_files(folder / "nothing") == ()


def test_files_that_lead_nowhere_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "loop.bin").symlink_to(tmp_path / "loop.bin")
    (tmp_path / "gone.bin").symlink_to(tmp_path / "nothing")

    assert stamps_of([tmp_path / "loop.bin"]) == ()
    assert stamps_of([tmp_path / "gone.bin"]) == ()
    assert model_files(tmp_path) == ()


@pytest.mark.demo_model
def test_the_list_of_the_demo_model_is_small_and_is_kept(
    demo_lm: tt.LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = demo_lm.model.config._name_or_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = listed(Path(source))
    (entry,) = (tmp_path / "tokentape" / "fingerprints").iterdir()

    assert len(first.tensors) == 272
    assert len(first.payload) < 8_000
    assert entry.stat().st_size < 12_000
    assert listed(Path(source)) == first == list_weights(demo_lm.model)
