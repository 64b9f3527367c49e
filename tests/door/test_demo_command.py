"""The command `demo`: a plan is recorded, replayed, tampered with, and shown as a page."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt
from tokentape.replay.recorded.tampered_copy import TamperedCopy

Cli = Callable[..., tuple[int, str, str]]

PLAN = """
name: short
seed: 3
system_prompt: "Look at yourself. {tools}"
tools: [get_weight_statistics]
limits: {max_new_tokens: 6}
tasks:
  - title: Look
    turns:
      - message: What of the first layer?
        tool_calls:
          - name: get_weight_statistics
            arguments: {layer_name: model.layers.0.mlp.up_proj.weight, compact: true}
      - message: And the norm?
        tool_calls:
          - name: get_weight_statistics
            arguments: {layer_name: model.norm.weight, compact: true}
        sampling: {do_sample: true, temperature: 0.9}
"""


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_the_demo_records_seals_and_replays(tmp_path: Path, tiny_folder: Path, cli: Cli) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    store, sealed, page = tmp_path / "demo.db", tmp_path / "sealed", tmp_path / "demo.html"
    code, out, _ = cli(
        *("demo", "--model", str(tiny_folder), "--plan", str(plan), "--regenerate", "2"),
        *("--store", f"sqlite:///{store}", "--sealed", str(sealed), "--page", str(page)),
    )

    assert code == 0
    for part in ("verified", "exact", "same ids and text", "the sealed copy is equal"):
        assert part in out
    assert "times fewer" in out
    assert re.search(
        r"^tampered    diverged +a copy with token 5 of turn 2 changed: the copy", out, re.M
    )
    assert out.splitlines()[-1].startswith(f"to look at it, open {page} in a browser")
    assert page.read_text().startswith("<!doctype html>")
    with tt.open_store(store) as opened:
        (summary,) = opened.summaries()
        kept = [(each.replay, each.verdict) for each in opened.verdicts(summary.run_id)]
    assert kept == [("verify", "verified"), ("regenerate", "exact")]
    assert cli("verify", "--store", str(store))[0] == 0


def test_a_demo_that_does_not_find_the_changed_token_exits_with_one(
    tmp_path: Path, tiny_folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)

    def unchanged(recording: tt.Recording, *, turn: int, step: int) -> TamperedCopy:
        return TamperedCopy(recording=recording, turn=turn, step=step, token_id=1)

    monkeypatch.setattr("tokentape.demo.tampered_copy", unchanged)
    code, out, _ = cli(
        *("demo", "--model", str(tiny_folder), "--plan", str(plan), "--regenerate", "2"),
        *("--store", f"sqlite:///{tmp_path / 'demo.db'}", "--sealed", str(tmp_path / "sealed")),
        *("--page", str(tmp_path / "demo.html")),
    )

    assert code == 1
    assert "all replays pass: True" in out
    assert "changed: NOT FOUND" in out


def test_a_demo_whose_replay_fails_exits_with_one(
    tmp_path: Path, tiny_folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    verify = tt.verify

    def verify_louder(recording: tt.Recording, lm: tt.LoadedModel, **rest: object) -> object:
        lm.model.model.layers[0].mlp.up_proj.weight.data.mul_(1.01)
        return verify(recording, lm, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(tt, "verify", verify_louder)
    code, out, _ = cli(
        *("demo", "--model", str(tiny_folder), "--plan", str(plan), "--regenerate", "2"),
        *("--store", f"sqlite:///{tmp_path / 'demo.db'}", "--sealed", str(tmp_path / "sealed")),
        *("--page", str(tmp_path / "demo.html")),
    )

    assert code == 1
    assert "all replays pass: False" in out


BAD_PLANS = {
    "an empty prompt": PLAN.replace("And the norm?", " "),
    "a system prompt beyond the context": PLAN.replace("Look at yourself.", "Look! " * 500),
    "a prompt beyond the context": PLAN.replace("And the norm?", "And? " * 500),
    "a setting that does not exist": PLAN.replace("temperature", "temperatur"),
    "no YAML": "name: [",
    "a missing part": "name: x",
}


@pytest.mark.parametrize("plan", BAD_PLANS)
def test_a_bad_plan_is_one_line_and_changes_nothing(
    plan: str, tmp_path: Path, tiny_folder: Path, cli: Cli
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(BAD_PLANS[plan])
    before = files_under(tmp_path)
    code, out, err = cli(
        *("demo", "--model", str(tiny_folder), "--plan", str(path)),
        *("--store", f"sqlite:///{tmp_path / 'demo.db'}", "--sealed", str(tmp_path / "sealed")),
        *("--page", str(tmp_path / "demo.html")),
    )

    assert (code, out) == (2, "")
    assert err.startswith("tokentape: ")
    assert err.count("\n") == 1
    assert files_under(tmp_path) == before
