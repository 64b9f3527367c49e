"""A model is not hashed again while its files and its tensors are unchanged."""

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
    ModelSource,
    TensorFingerprint,
    WeightsManifest,
    file_states,
    folder_states,
    manifest_cache,
    manifest_of,
)
from tokentape.generation.fingerprints.manifest_cache import read_manifest, write_manifest
from tokentape.generation.fingerprints.weights import hash_weights

ROOT = Path(__file__).parents[2]
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
FORGED, OTHER = (
    WeightsManifest.of(
        [TensorFingerprint(name="forged", dtype="float32", shape=(1,), digest=digest * 16)]
    )
    for digest in ("ab", "cd")
)


@pytest.fixture
def manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of manifests of this test, in which the smallest model is stored."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest_cache, "_MIN_BYTES", 0)
    return tmp_path / "cache" / "tokentape" / "fingerprints"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model whose files may be changed."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def forged(manifests: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with a stored manifest that hashing its tensors would not give."""
    with monkeypatch.context() as patched:
        patched.setattr(manifest_cache, "hash_weights", lambda model: FORGED)
        assert loaded_manifest(folder) == FORGED
    return folder


def loaded_manifest(folder: Path, **settings: Any) -> WeightsManifest:
    return tt.load_model(folder, **settings).identity.weights


def entry_of(manifests: Path) -> Path:
    (path,) = manifests.iterdir()
    return path


def test_the_stored_manifest_of_unchanged_files_is_used(forged: Path) -> None:
    assert loaded_manifest(forged) == FORGED


def test_every_identity_of_a_model_gets_the_stored_manifest(forged: Path) -> None:
    lm = tt.load_model(forged)
    other = tt.LoadedModel(lm.model, lm.tokenizer, "another name")

    assert other.identity.weights == FORGED


def test_the_stored_manifest_is_that_of_the_tensors(manifests: Path, folder: Path) -> None:
    first = loaded_manifest(folder)
    before = entry_of(manifests).read_bytes()

    assert first == hash_weights(tt.load_model(folder).model)
    assert loaded_manifest(folder) == first
    assert entry_of(manifests).read_bytes() == before


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def rewritten(path: Path) -> None:
    """Write the same bytes again, with the same name, size and mtime."""
    found = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def replaced(path: Path) -> None:
    shutil.copy2(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("change", [touched, rewritten, replaced])
def test_after_a_file_was_written_the_manifest_is_replaced(
    manifests: Path, forged: Path, name: str, change: Callable[[Path], None]
) -> None:
    change(forged / name)
    found = loaded_manifest(forged)

    assert found == hash_weights(tt.load_model(forged).model)
    assert b"forged" not in entry_of(manifests).read_bytes()


def test_other_settings_have_their_own_manifest(manifests: Path, forged: Path) -> None:
    half = loaded_manifest(forged, dtype="bfloat16")

    assert {each.dtype for each in half.tensors} == {"bfloat16"}
    assert loaded_manifest(forged, dtype=torch.bfloat16) == half
    assert loaded_manifest(forged, attn_implementation="eager") != FORGED
    assert len(list(manifests.iterdir())) == 4
    assert loaded_manifest(forged) == FORGED


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
def test_after_a_change_of_a_tensor_the_model_is_hashed(
    forged: Path, change: Callable[[Any], object], used_before: bool
) -> None:
    lm = tt.load_model(forged)
    if used_before:
        assert lm.identity.weights == FORGED
    change(lm.model)

    assert lm.identity.weights == hash_weights(lm.model)


def test_a_copy_of_a_model_is_hashed(forged: Path) -> None:
    copied = copy.deepcopy(tt.load_model(forged).model)

    assert manifest_of(copied) == hash_weights(copied)


def test_a_model_whose_files_were_written_after_loading_is_hashed(forged: Path) -> None:
    lm = tt.load_model(forged)
    touched(forged / "model.safetensors")

    assert lm.identity.weights == hash_weights(lm.model)


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return a function that edits the JSON of an entry."""

    def edit(path: Path) -> None:
        described = json.loads(path.read_bytes())
        change(described)
        path.write_text(json.dumps(described))

    return edit


def turned_into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "no object": lambda path: path.write_bytes(b"[1]"),
    "deep": lambda path: path.write_bytes(b"[" * 200_000),
    "half an object": lambda path: path.write_bytes(b'{"sha256": ""}'),
    "a folder": turned_into_a_folder,
    "key of another type": edited(lambda entry: entry.update(key=5)),
    "manifest of another type": edited(lambda entry: entry.update(manifest=5)),
    "manifest": edited(lambda entry: entry.update(manifest=FORGED.payload.decode() + " ")),
    "digest": edited(lambda entry: entry.update(manifest=OTHER.payload.decode())),
    "sample": edited(lambda entry: entry["key"].update(sample="00" * 16)),
    "files": edited(lambda entry: entry["key"].update(files=[])),
    "sha256": edited(lambda entry: entry.update(sha256="00" * 32)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_an_invalid_file_is_a_miss(
    manifests: Path, forged: Path, damage: Callable[[Path], object]
) -> None:
    damage(entry_of(manifests))
    lm = tt.load_model(forged)

    assert lm.identity.weights == hash_weights(lm.model)


def test_if_nothing_can_be_written_the_model_is_hashed(
    manifests: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", Path("/dev/null"), tmp_path / "a\nb" / ("x" * 300)):
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        assert len(loaded_manifest(folder).tensors) == 30
    assert not manifests.exists()


def test_a_small_model_is_not_stored(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    loaded_manifest(folder)

    assert not (tmp_path / "cache").exists()


def count_misses(model: Path) -> int:
    """Write and read a manifest 100 times; return how often it was missing after its write."""
    weights = WeightsManifest.of(
        TensorFingerprint(name=f"layers.{n}.weight", dtype="float32", shape=(n,), digest="cd" * 16)
        for n in range(100)
    )
    source = ModelSource(files=file_states([model]), settings={})
    misses = 0
    for _ in range(100):
        write_manifest(source, "sample", weights)
        found = read_manifest(source, "sample")
        assert found in (None, weights)
        misses += found is None
    return misses


SECOND_PROCESS = """
import sys
from pathlib import Path
from tests.generation.test_manifest_cache import count_misses
print("begins", flush=True)
print(count_misses(Path(sys.argv[1])))
"""


def test_two_processes_that_write_the_same_manifest_read_it_complete(
    manifests: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"weights")
    command = [sys.executable, "-c", SECOND_PROCESS, str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begins\n"
        assert count_misses(model) == 0
        assert other.communicate()[0] == "0\n"

    assert [path.suffix for path in manifests.iterdir()] == [".json"]


def test_a_model_of_the_hub_is_identified_by_the_files_of_its_snapshot(
    manifests: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    key = json.loads(entry_of(manifests).read_bytes())["key"]

    assert found == hash_weights(tt.load_model(tiny_folder).model)
    assert str(repository / "blobs" / "abc") in {path for path, *_ in key["files"]}


def test_an_adapter_is_not_identified_by_its_own_files(folder: Path) -> None:
    assert {Path(path).name for path, *_ in folder_states(folder)} >= {
        "config.json",
        "model.safetensors",
    }
    (folder / "adapter_config.json").write_text("{}")

    assert folder_states(folder) == ()
    assert folder_states(folder / "nothing") == ()


def test_broken_links_have_no_state(tmp_path: Path) -> None:
    (tmp_path / "loop.bin").symlink_to(tmp_path / "loop.bin")
    (tmp_path / "gone.bin").symlink_to(tmp_path / "nothing")

    assert file_states([tmp_path / "loop.bin"]) == ()
    assert file_states([tmp_path / "gone.bin"]) == ()
    assert folder_states(tmp_path) == ()


@pytest.mark.demo_model
def test_the_manifest_of_the_demo_model_is_small_and_is_stored(
    demo_lm: tt.LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = demo_lm.model.config._name_or_path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = loaded_manifest(Path(source))
    (entry,) = (tmp_path / "tokentape" / "fingerprints").iterdir()

    assert len(first.tensors) == 272
    assert len(first.payload) < 8_000
    assert entry.stat().st_size < 12_000
    assert loaded_manifest(Path(source)) == first == hash_weights(demo_lm.model)
