"""A report names the tensors that differ from the recorded ones."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from tokentape.generation.fingerprints import TensorFingerprint, WeightsManifest, manifest_of
from tokentape.replay.checking.weights import changed_tensors, recorded_weights, rounded_dtype
from tokentape.store import DatabaseStore

Alter = Callable[[tt.LoadedModel, Callable[[Any], None]], tt.LoadedModel]
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def listed(
    *names: str, dtype: str = "float32", rows: int = 2, digest: str = "00"
) -> WeightsManifest:
    return WeightsManifest.of(
        TensorFingerprint(name=name, dtype=dtype, shape=(rows, 3), digest=digest * 16)
        for name in names
    )


def layers(numbers: range, *roles: str) -> list[str]:
    return [f"model.layers.{number}.{role}" for number in numbers for role in roles]


def mixed(*lists: WeightsManifest) -> WeightsManifest:
    return WeightsManifest.of(each for one in lists for each in one.tensors)


def test_one_tensor_of_a_replayed_model_is_named(
    lm: tt.LoadedModel, store: DatabaseStore, record: Callable[..., tt.Recording], altered: Alter
) -> None:
    started = record(lm, store, tokens=2).started()
    other = altered(lm, lambda model: model.get_parameter(Q_PROJ).mul_(1.01))
    then = recorded_weights(started, store)
    assert then is not None
    change = changed_tensors(then, manifest_of(other.model))

    assert then == manifest_of(lm.model)
    assert change.changed == (Q_PROJ,)
    assert change.any
    assert change.summary == f"1 of {len(then.tensors)} tensors: {Q_PROJ}"
    same = changed_tensors(then, manifest_of(lm.model))
    assert (same.any, same.summary) == (False, f"the same {len(then.tensors)} tensors")


ROLES = ("mlp.up.weight", "norm.weight", "self_attn.q.weight")
ENDS = ("lm_head.weight", "model.norm.weight")
NAMES = [*layers(range(12), *ROLES), *ENDS]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (NAMES, "38 of 38 tensors, all"),
        (ENDS, "2 of 38 tensors: lm_head.weight, model.norm.weight"),
        (layers(range(12), *ROLES), "36 of 38 tensors, all of layers 0-11"),
        (layers(range(2, 11), ROLES[2]), "9 of 38 tensors, self_attn.q.weight of layers 2-10"),
        (
            [*layers(range(3), *ROLES[:2]), *layers(range(9, 10), *ROLES[:2]), ENDS[0]],
            "9 of 38 tensors, mlp.up.weight and norm.weight of layers 0-2, 9 and lm_head.weight",
        ),
        (
            [*layers(range(4), ROLES[0]), *layers(range(7, 8), *ROLES)],
            "7 of 38 tensors, in layers 0-3, 7",
        ),
        (
            ["model.layers.10.norm.weight", "model.layers.9.norm.weight"],
            "2 of 38 tensors: model.layers.9.norm.weight, model.layers.10.norm.weight",
        ),
    ],
)
def test_many_tensors_are_named_by_their_layers(changed: list[str], said: str) -> None:
    rest = [name for name in NAMES if name not in changed]
    now = mixed(listed(*rest), listed(*changed, digest="11"))

    assert changed_tensors(listed(*NAMES), now).summary == said


def test_layers_of_two_parts_of_a_model_are_told_apart() -> None:
    names = [f"{part}.layers.{n}.{role}" for part in "ab" for n in range(3) for role in "xyz"]
    changed = [name for name in names if name.endswith("x") or name.startswith("a.layers.1")]
    rest = [name for name in names if name not in changed]
    now = mixed(listed(*rest), listed(*changed, digest="11"))

    assert changed_tensors(listed(*names), now).summary == (
        "8 of 18 tensors, in a.layers.0-2, b.layers.0-2"
    )


def test_another_type_shape_and_name_are_said_each() -> None:
    then = listed(*NAMES)
    now = mixed(
        listed(*NAMES[4:-1]),
        listed(*NAMES[:2], dtype="bfloat16"),
        listed(NAMES[2], rows=5),
        listed("extra.weight", digest="22"),
        listed(NAMES[-1], digest="33"),
    )
    change = changed_tensors(then, now)

    assert change.dtype_changed == tuple(sorted(NAMES[:2]))
    assert (change.reshaped, change.missing) == ((NAMES[2],), (NAMES[3],))
    assert (change.changed, change.added) == ((NAMES[-1],), ("extra.weight",))
    assert change.summary == (
        "1 of 38 tensors: model.norm.weight; "
        "2 of 38 of another type (float32, now bfloat16); "
        "1 of 38 of another shape: model.layers.0.self_attn.q.weight; "
        "1 missing: model.layers.1.mlp.up.weight; 1 added: extra.weight"
    )


def test_a_model_of_another_kind_is_another_architecture(
    make_lm: Callable[..., tt.LoadedModel],
) -> None:
    then, now = (manifest_of(make_lm(family).model) for family in ("llama", "gpt2"))
    wider = manifest_of(make_lm("llama", hidden_size=32).model)

    assert changed_tensors(then, now).summary.startswith("another architecture: ")
    assert changed_tensors(then, wider).summary.startswith("another architecture: ")


def test_a_model_inside_another_is_the_same_under_other_names(lm: tt.LoadedModel) -> None:
    then = manifest_of(lm.model)
    wrapped = torch.nn.ModuleDict({"base": lm.model, "adapter": torch.nn.Linear(2, 2)})
    count = len(then.tensors)

    assert changed_tensors(then, manifest_of(wrapped)).summary == (
        f"{count} of {count} under another name; 2 added: adapter.bias, adapter.weight"
    )


def test_a_missing_or_damaged_manifest_is_none(
    lm: tt.LoadedModel, store: DatabaseStore, record: Callable[..., tt.Recording]
) -> None:
    started = record(lm, store, tokens=2).started()
    payload = store.blob(started.weights_sha256)

    assert recorded_weights(started, {started.weights_sha256: payload}.__getitem__) is not None
    assert recorded_weights(started, {}.__getitem__) is None
    assert recorded_weights(started, lambda sha256: payload[:-1]) is None
    with tt.open_store("sqlite://") as elsewhere:
        assert recorded_weights(started, elsewhere) is None
    before = dataclasses.replace(started, weights_listed=False)
    assert recorded_weights(before, store) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_checkpoint_that_was_rounded_looks_so(
    lm: tt.LoadedModel, altered: Alter, dtype: torch.dtype
) -> None:
    def rounding(model: Any) -> None:
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))

    rounded = altered(lm, rounding)
    spoilt = altered(rounded, lambda model: model.lm_head.weight[-1, -1:].add_(1e-7))

    assert rounded_dtype(rounded.model) == str(dtype).removeprefix("torch.")
    assert rounded_dtype(lm.model) == ""
    assert rounded_dtype(spoilt.model) == ""


def test_only_models_in_float32_look_rounded(make_lm: Callable[..., tt.LoadedModel]) -> None:
    assert rounded_dtype(make_lm("llama", dtype=torch.bfloat16).model) == ""
    assert rounded_dtype(torch.nn.Linear(2, 2).double()) == ""
    assert rounded_dtype(torch.nn.ReLU()) == ""
    with torch.no_grad():
        strange = torch.nn.Linear(2, 2)
        strange.weight.copy_(torch.tensor([[torch.inf, torch.nan], [0.0, -1.5]]))
        strange.bias.zero_()
    assert rounded_dtype(strange) == "bfloat16"
