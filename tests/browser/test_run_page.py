"""What a newcomer reads on the page of a run, without documentation."""

import json
import re
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from transformers import PreTrainedTokenizerFast

import tokentape as tt
from benchmarks.chromium import OpenedPage
from tests.browser.probe import PRUNED_TURN, TAMPERED, Probe
from tokentape.recorder.events import SystemPromptCached, ToolReturned


@pytest.fixture
def page(opened: OpenedPage, run_page: Path) -> Page:
    return opened.open(run_page)


@pytest.fixture(scope="module")
def recording(probe: Probe) -> tt.Recording:
    with tt.open_store(probe.url) as store:
        return store.recording(probe.run_id)


def pasted(page: Page) -> str:
    """Return the text of the clipboard, as a reader gets it: pasted into a field."""
    page.evaluate("document.body.append(document.createElement('textarea'))")
    field = page.locator("body > textarea")
    field.focus()
    page.keyboard.press("Control+V")
    return field.input_value()


def test_which_turn_was_the_least_sure(page: Page, probe: Probe) -> None:
    with tt.open_store(probe.url) as store:
        entropy = tt.tokens_df(store, probe.run_id).groupby("turn")["entropy"].mean()
    turn = int(entropy.idxmax())

    expect(page.get_by_role("main")).to_contain_text(
        f"Least sure turnturn {turn}mean entropy {entropy.max():.2f} nats"
    )
    page.get_by_role("link", name=f"turn {turn}", exact=True).click()
    expect(page.get_by_role("heading", name=f"Turn {turn}", exact=True)).to_be_in_viewport()


def test_what_the_cache_saved(page: Page, recording: tt.Recording) -> None:
    system = sum(
        len(each.event.ids)
        for each in recording.events()
        if isinstance(each.event, SystemPromptCached)
    )
    caches = [turn.cache for turn in recording.turns() if turn.cache]
    computed = system + sum(each.computed_tokens for each in caches)
    without = sum(each.prompt_tokens for each in caches)
    saved = f"{computed:,} of {without:,} prompt tokens computed"
    fewer = f"{without / computed:.1f} times fewer"

    expect(page.get_by_role("main")).to_contain_text(f"{fewer}{saved}")
    page.get_by_role("link", name=fewer).click()
    expect(page.get_by_role("tabpanel", name="Cache")).to_contain_text(f"{saved}: {fewer}")


def test_why_a_turn_was_a_partial_hit(
    page: Page, recording: tt.Recording, tokenizer: PreTrainedTokenizerFast
) -> None:
    cache = recording.turns()[PRUNED_TURN - 1].cache
    assert cache is not None
    assert cache.decision == "partial"
    said = page.get_by_role("article", name=f"Turn {PRUNED_TURN}").get_by_text("Cache partial:")
    line = said.locator("..")

    expect(line).to_contain_text(
        f"reused {cache.reused_tokens} of {cache.prompt_tokens} prompt tokens"
    )
    expect(line).to_contain_text("removed to fit the context")
    expect(line).to_contain_text(
        f"differs from the cached tokens at token {cache.divergence_index}: "
        f"the cache has {tokenizer.decode([cache.divergence_cached_id])}, "
        f"the prompt {tokenizer.decode([cache.divergence_prompt_id])}, in the text "
    )


def test_what_a_tool_returned_in_full(page: Page, recording: tt.Recording) -> None:
    results = [e.event for e in recording.events() if isinstance(e.event, ToolReturned)]
    assert recording.read_blob is not None
    payload = recording.read_blob(results[2].payload_sha256).decode()
    turn = page.get_by_role("article", name="Turn 2")
    full = turn.get_by_role("group").filter(has_text="Full result of").nth(2)
    assert json.loads(payload)["percentiles"]
    expect(full).not_to_contain_text("percentiles")
    full.get_by_text("Full result of get_weight_statistics").click()

    assert json.loads(payload) == json.loads(full.locator("pre").inner_text())


def test_where_the_tampered_copy_diverged(page: Page, probe: Probe) -> None:
    first = probe.tampered.divergences[0]
    page.get_by_role("link", name=re.compile(f"diverged.*{TAMPERED}")).click()
    panel = page.get_by_role("tabpanel", name="Replays")

    expect(panel).to_contain_text(TAMPERED)
    expect(panel.get_by_role("heading", name=re.compile(r"^Turn \d+, token \d+:"))).to_have_text(
        f"Turn {first.turn}, token {first.step}: "
        f"recorded {first.recorded.text}, replayed {first.replayed.text}"
    )


def test_the_second_candidate_at_the_least_sure_token_and_how_to_go_on_with_it(
    page: Page, probe: Probe, recording: tt.Recording, cli: Callable[..., tuple[int, str, str]]
) -> None:
    tokens = [token for turn in recording.turns() for token in turn.tokens]
    least_sure = max(tokens, key=lambda token: token.entropy)
    second = least_sure.top_ids[1]
    page.get_by_role("link", name=f"turn {least_sure.turn}, token {least_sure.step}").first.click()
    inspector = page.get_by_role("complementary", name="Token inspector")
    expect(inspector).to_contain_text(f"Turn {least_sure.turn}, token {least_sure.step}")
    inspector.get_by_role("radio", name=re.compile("^2 ")).click()
    command = inspector.get_by_role("region", name="Command that forks here").inner_text()
    copy = inspector.get_by_role("button", name="Copy the command")
    copy.click()
    expect(copy).to_have_text("Copied")

    assert shlex.split(command) == [
        *("tokentape", "fork", probe.run_id, "--store", probe.url),
        *("--at-turn", str(least_sure.turn), "--at-token", str(least_sure.step)),
        *("--token-id", str(second), "--continue"),
    ]
    assert pasted(page) == command
    with tt.open_store(probe.url) as store:
        runs = {each.run_id for each in store.summaries()}
        code, _, err = cli(*shlex.split(command)[1:])
        assert code == 0, err
        (fork,) = (each for each in store.summaries() if each.run_id not in runs)
        chosen = {
            (turn.number, len(before.reply_ids)): turn.started.forced_ids
            for before, turn in pairwise(store.recording(fork.run_id).turns())
            if turn.started.forced_ids
        }
        assert chosen == {(least_sure.turn, least_sure.step): (second,)}
