"""A stored prefix is used only if this user has written it."""

import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tokentape.generation.cache import cache_policy
from tokentape.generation.cache.disk_tier import DiskTier
from tokentape.generation.cache.key import cache_key
from tokentape.generation.cache.prefix_folder import PrefixFolder
from tokentape.generation.cache.prefix_key import KEY_VARIABLE, prefix_key
from tokentape.recorder.events import CacheDecided, SystemPromptCached
from tokentape.store import DatabaseStore

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6}
PROMPT = random_ids(40, 1)
LONGER = [*PROMPT, 9, 9]
Home = Callable[[str], Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return a function that changes the user, and returns the file of that user's key."""

    def become(name: str) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return tmp_path / name / "tokentape" / "prefix-key"

    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    become("user")
    return become


def generated(lm: tt.LoadedModel, folder: Path, store: DatabaseStore) -> tuple[list[int], Any]:
    """Return the tokens after `LONGER` with a prefix folder, and the decision as recorded."""
    with tt.Recorder(store) as recorder:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder, prefix_folder=folder)
        tokens = generator.generate(LONGER, **GREEDY)["generated_tokens"]
    events = [each.event for each in store.recording(recorder.run_id).events()]
    return tokens, next(each for each in events if isinstance(each, CacheDecided))


def stored(lm: tt.LoadedModel, folder: Path) -> Path:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, prefix_folder=folder)
    generator.generate(PROMPT, do_sample=False, max_new_tokens=1)
    assert generator.store_prefix()
    (file,) = folder.iterdir()
    return file


def cold(lm: tt.LoadedModel) -> list[int]:
    return tt.ManualGenerator(lm.model, lm.tokenizer).generate(LONGER, **GREEDY)["generated_tokens"]


def forge(lm: tt.LoadedModel, other: tt.LoadedModel, folder: Path) -> Path:
    """Store what other weights compute of `PROMPT`, with a hash and next logits that fit."""
    generator = tt.ManualGenerator(other.model, other.tokenizer)
    given = generator.generate(PROMPT, do_sample=False, max_new_tokens=1, return_cache=True)
    cached = given["past_key_values"]
    tier = DiskTier(lm.model, lm.identity, PrefixFolder(folder))
    tier.store(cached.ids, cached.cache, cache_key(lm.model), cache_policy(lm.model))
    (file,) = folder.iterdir()
    return file


def sign(file: Path, signature: str | None) -> None:
    """Replace the signature of a file, or remove it."""
    with safe_open(file, framework="pt") as opened:
        metadata = {**opened.metadata(), "signature": signature or ""}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if signature is None:
        del metadata["signature"]
    save_file(tensors, file, metadata=metadata)


def signature_of(file: Path) -> str:
    with safe_open(file, framework="pt") as opened:
        return str(opened.metadata()["signature"])


@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral", "mamba", "qwen3-next"])
def test_a_forged_prefix_is_computed_again(
    family: str,
    home: Home,
    make_lm: Callable[..., tt.LoadedModel],
    altered: Callable[..., tt.LoadedModel],
    tmp_path: Path,
    store: DatabaseStore,
) -> None:
    lm = make_lm(family)
    other = altered(lm, scale_embeddings)
    honest = signature_of(stored(lm, tmp_path / "honest"))
    home("stranger")
    file = forge(lm, other, tmp_path / "forged")
    theirs = signature_of(file)
    home("user")
    seen = []
    for signed in (theirs, honest, "0" * 64, "ß", "", None):
        sign(file, signed)
        tokens, decided = generated(lm, tmp_path / "forged", store)
        assert tokens == cold(lm)
        seen.append((decided.source, decided.decision, decided.disk_reason))

    assert seen == [("", "miss", "signed_by_another")] * 4 + [("", "miss", "not_signed")] * 2
    # Nothing else would have noticed it.
    home("stranger")
    sign(file, theirs)
    assert generated(lm, tmp_path / "forged", store)[1].source == "disk"


def scale_embeddings(model: Any) -> None:
    model.get_input_embeddings().weight.mul_(-1.5)


def test_a_file_without_a_signature_is_replaced(
    home: Home, lm: tt.LoadedModel, tmp_path: Path, store: DatabaseStore
) -> None:
    """Files of version 0.1.0 have none."""
    folder = tmp_path / "prefixes"
    said = []
    for _ in range(3):
        with tt.Recorder(store) as recorder:
            generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder, prefix_folder=folder)
            generator.cache_system_prompt("You are kind.")
        events = [each.event for each in store.recording(recorder.run_id).events()]
        cached = next(each for each in events if isinstance(each, SystemPromptCached))
        said.append((cached.source, cached.disk_reason))
        if len(said) == 1:
            (file,) = folder.iterdir()
            sign(file, None)

    assert said == [("", ""), ("", "not_signed"), ("disk", "")]


def test_a_pipe_in_a_folder_is_no_prefix(
    home: Home, lm: tt.LoadedModel, tmp_path: Path, store: DatabaseStore
) -> None:
    file = stored(lm, tmp_path / "prefixes")
    identity, _, ids = file.name.split("-")
    os.mkfifo(file.with_name(f"{identity}-41-{ids}"))

    assert generated(lm, tmp_path / "prefixes", store)[1].source == "disk"


def test_the_key_is_made_once_and_only_its_user_can_read_it(home: Home) -> None:
    file = home("user")
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: prefix_key(), range(32)))

    assert set(keys) == {file.read_bytes()}
    assert len(keys[0]) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["prefix-key"]
    home("other")
    assert prefix_key() != keys[0]


def test_a_key_that_others_can_read_is_not_used(
    home: Home, lm: tt.LoadedModel, tmp_path: Path, store: DatabaseStore
) -> None:
    stored(lm, tmp_path / "prefixes")
    file = home("user")
    file.chmod(0o644)

    assert generated(lm, tmp_path / "prefixes", store)[1].disk_reason == "no_key"
    with pytest.raises(OSError, match="other users can read the key"):
        stored(lm, tmp_path / "more")


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 5000])
def test_a_damaged_key_is_not_used(content: bytes, home: Home) -> None:
    file = home("user")
    prefix_key()
    file.write_bytes(content)

    with pytest.raises(OSError, match="is no key"):
        prefix_key()


def test_without_a_place_for_a_key_nothing_is_stored_and_nothing_is_restored(
    home: Home, lm: tt.LoadedModel, tmp_path: Path, store: DatabaseStore
) -> None:
    stored(lm, tmp_path / "prefixes")
    (tmp_path / "blocked").write_text("no folder")
    home("blocked")
    tokens, decided = generated(lm, tmp_path / "prefixes", store)

    assert tokens == cold(lm)
    assert (decided.source, decided.disk_reason) == ("", "no_key")
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, prefix_folder=tmp_path / "more")
    generator.cache_system_prompt("You are kind.")
    assert not (tmp_path / "more").exists()


def test_users_with_one_key_share_a_folder(
    home: Home,
    lm: tt.LoadedModel,
    tmp_path: Path,
    store: DatabaseStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "key").write_bytes(bytes(range(32)))
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "key"))
    stored(lm, tmp_path / "prefixes")
    home("other")

    assert generated(lm, tmp_path / "prefixes", store)[1].source == "disk"
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "no key"))
    assert generated(lm, tmp_path / "prefixes", store)[1].disk_reason == "no_key"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gemma3", "mistral", "mamba", "qwen3-next"])
def test_a_signed_prefix_of_any_kind_is_used(
    family: str,
    dtype: torch.dtype,
    home: Home,
    make_lm: Callable[..., tt.LoadedModel],
    tmp_path: Path,
    store: DatabaseStore,
) -> None:
    lm = make_lm(family, dtype=dtype)
    stored(lm, tmp_path / "prefixes")
    _, decided = generated(lm, tmp_path / "prefixes", store)

    assert (decided.source, decided.disk_reason) == ("disk", "")
    assert decided.reused_tokens == len(PROMPT)
