"""Every tensor of a model has a digest, with any dtype and memory layout."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokentape as tt
from tokentape.generation.fingerprints import (
    TensorFingerprint,
    WeightsManifest,
    manifest_of,
)
from tokentape.generation.fingerprints import tensors as tensors_module
from tokentape.generation.fingerprints.tensors import tensor_bytes, tensor_digest, tensor_sample
from tokentape.generation.fingerprints.weights import hash_weights, sample_weights

DTYPES = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


def holder(**buffers: torch.Tensor) -> torch.nn.Module:
    module = torch.nn.Module()
    for name, tensor in buffers.items():
        module.register_buffer(name, tensor)
    return module


def plain_digest(tensor: torch.Tensor) -> str:
    """Return the digest of a contiguous copy of the bytes."""
    raw = bytes(tensor.clone(memory_format=torch.contiguous_format).untyped_storage())
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_digest_does_not_depend_on_the_memory_layout(dtype: torch.dtype) -> None:
    tensor = (torch.arange(60).reshape(3, 4, 5) % 7).to(dtype)
    across, part = tensor.transpose(0, 2), tensor[:, 1:3, ::2]

    assert tensor_digest(tensor) == plain_digest(tensor)
    assert tensor_digest(across) == plain_digest(across) != tensor_digest(tensor)
    assert tensor_digest(part) == plain_digest(part)
    (fingerprint,) = hash_weights(holder(x=part)).tensors
    assert (fingerprint.name, fingerprint.shape) == ("x", (3, 2, 3))
    assert fingerprint.dtype == str(dtype).removeprefix("torch.")
    assert fingerprint.digest == plain_digest(part)


def test_scalars_and_empty_tensors_have_a_digest() -> None:
    found = hash_weights(holder(none=torch.empty(0, 3), no=torch.empty(0), one=torch.tensor(2.5)))
    digests = {each.name: each.digest for each in found.tensors}

    assert digests["one"] == plain_digest(torch.tensor([2.5]))
    assert digests["none"] == digests["no"] == hashlib.blake2b(digest_size=16).hexdigest()
    assert len(sample_weights(holder(none=torch.empty(0, 3)))) == 32


def test_a_tensor_that_is_not_contiguous_is_copied_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tensors_module, "_COPIED_BYTES", 1000)
    tensor = torch.arange(64 * 80).reshape(1, 80, 64).transpose(1, 2)
    pieces = list(tensor_bytes(tensor))

    assert max(each.nbytes for each in pieces) <= 1000
    assert tensor_digest(tensor) == plain_digest(tensor)


def test_a_contiguous_tensor_is_not_copied() -> None:
    tensor = torch.zeros(1000)
    (piece,) = tensor_bytes(tensor)
    tensor[-1] = 1.0

    assert bytes(piece[-4:]) == b"\x00\x00\x80\x3f"


def test_lazy_conjugates_and_negatives_are_hashed_as_they_are_read() -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j])

    assert tensor_digest(tensor.conj()) == plain_digest(tensor.conj().resolve_conj())
    assert tensor_digest(tensor.conj().imag) == plain_digest(tensor.conj().imag.resolve_neg())
    assert tensor_sample(tensor.conj()) != tensor_sample(tensor)


@pytest.mark.filterwarnings("ignore:torch.quantize_per:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per:DeprecationWarning")
def test_the_scale_of_a_quantized_tensor_counts() -> None:
    numbers = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    one = torch.quantize_per_tensor(numbers, 0.1, 0, torch.qint8)
    other = torch.quantize_per_tensor(numbers * 2, 0.2, 0, torch.qint8)
    axes = torch.quantize_per_channel(
        numbers, torch.tensor([0.1, 0.2]), torch.tensor([0, 0]), 0, torch.qint8
    )

    assert torch.equal(one.int_repr(), other.int_repr())
    assert len({tensor_digest(each) for each in (one, other, axes)}) == 3
    assert len({tensor_sample(each) for each in (one, other, axes)}) == 3


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.empty(2, device="meta"), "x is on the meta device and has no bytes"),
        (torch.zeros(2, 2).to_sparse(), r"the bytes of x .*sparse.* cannot be hashed"),
    ],
)
def test_a_tensor_without_bytes_is_rejected_by_name(tensor: torch.Tensor, said: str) -> None:
    for read in (hash_weights, sample_weights):
        with pytest.raises(tt.ModelError, match=said) as caught:
            read(holder(x=tensor))
        assert "\n" not in str(caught.value)


class Packed(torch.nn.Module):
    """A module with more than tensors in its state dict, like quantized layers."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    def get_extra_state(self) -> Any:
        return self.state


def test_other_values_in_a_state_dict_are_hashed_too() -> None:
    def listed(scale: float, value: float) -> WeightsManifest:
        tensors = (torch.tensor([value]), None)
        return hash_weights(Packed({"scale": scale, "dtype": torch.qint8, "packed": tensors}))

    names = [each.name for each in listed(0.5, 1.0).tensors]
    assert names == [f"_extra_state.{each}" for each in ("dtype", "packed.0", "packed.1", "scale")]
    assert len({listed(0.5, 1.0), listed(0.25, 1.0), listed(0.5, 2.0)}) == 3
    with pytest.raises(
        tt.ModelError, match=r"_extra_state in the state dict .* cannot be hashed: object"
    ):
        hash_weights(Packed(object()))


def test_tied_tensors_are_listed_once(make_lm: Callable[..., tt.LoadedModel]) -> None:
    names = {
        tied: {each.name for each in manifest_of(make_lm(tie_word_embeddings=tied).model).tensors}
        for tied in (False, True)
    }

    assert names[False] - names[True] == {"lm_head.weight"}
    assert names[True] < names[False]


def test_each_view_of_a_storage_is_listed() -> None:
    both = torch.arange(8.0)
    found = hash_weights(holder(a=both[:4], b=both[4:], c=both[:4].reshape(2, 2), d=both[:4]))

    assert [each.name for each in found.tensors] == ["a", "b", "c"]


@pytest.mark.parametrize("shape", [(64, 48), (48, 64), (500, 576), (7, 5, 3)])
def test_a_sample_covers_every_row_and_every_column(shape: tuple[int, ...]) -> None:
    tensor = torch.zeros(shape)
    before = tensor_sample(tensor)
    for axis in (0, -1):
        for index in range(shape[axis]):
            tensor.select(axis, index).fill_(1.0)
            assert tensor_sample(tensor) != before
            tensor.select(axis, index).zero_()


def test_a_sample_of_a_large_tensor_is_a_few_kilobytes() -> None:
    assert 4096 <= len(tensor_sample(torch.zeros(4096, 4096).t())) < 5000


PARTS = st.sampled_from(["a", "", "0", "7", "007", "12", "*", "é\n", "²"])
ENTRY = st.builds(
    TensorFingerprint,
    name=st.lists(PARTS, min_size=1).map(".".join),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    shape=st.lists(st.integers(0, 2**40), max_size=3).map(tuple),
    digest=st.binary(min_size=16, max_size=16).map(bytes.hex),
)


@given(st.lists(ENTRY, unique_by=lambda each: each.name))
def test_a_manifest_is_read_back_from_its_payload(entries: list[TensorFingerprint]) -> None:
    written = WeightsManifest.of(entries)

    assert WeightsManifest.read(written.payload) == written
    assert WeightsManifest.of(reversed(entries)) == written
    assert set(written.tensors) == set(entries)


@pytest.mark.parametrize(
    "damage",
    [
        lambda payload: payload[:-1],
        lambda payload: b"",
        lambda payload: b"\xff" + payload,
        lambda payload: b"[" * 100_000,
        lambda payload: b"[]",
        lambda payload: b"null",
        lambda payload: payload + b"\n",
        lambda payload: payload.replace(b"tokentape-weights-1", b"tokentape-weights-2"),
        lambda payload: json.dumps(json.loads(payload)).encode(),
        lambda payload: payload.replace(b"[0,1,2]", b"[0,1]", 1),
        lambda payload: payload.replace(b'"float32"', b"{}", 1),
    ],
)
def test_an_invalid_payload_is_rejected(
    lm: tt.LoadedModel, damage: Callable[[bytes], bytes]
) -> None:
    payload = manifest_of(lm.model).payload
    assert damage(payload) != payload

    with pytest.raises(ValueError, match="invalid weights manifest"):
        WeightsManifest.read(damage(payload))
