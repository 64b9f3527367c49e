"""Runs whose texts attack the page that shows them."""

import shutil
from pathlib import Path
from typing import Any

import tokentape as tt
from tests.forced import forced_reply
from tests.hostile import Forger, hostile, with_all_fields
from tests.recordings.record import record_conversation, record_failure, record_family
from tokentape.recorder.events import EVENT_CLASSES
from tokentape.store import DatabaseStore

SCRIPT = "<script>alert(1)</script>"
ATTACKS = (
    SCRIPT,
    '</script></style></title></textarea><svg onload="alert(2)">',
    '<img src="http://nowhere.invalid/x.png" onerror="alert(3)">',
    "[click](javascript:alert(4)) javascript:alert(5) //nowhere.invalid/x",
    "\"' onfocus=alert(6) autofocus x='",
    "<!-- <script> ]]> {{ 7 * 7 }} ${alert(7)} &lt;b&gt; \\u003cscript\\u003e",
    "\u202eright to left\u2066 \u200b\0\x1b[2J\r\u2028",
    "e" + "\u0301" * 10_000,
)
EVERYTHING = "\n".join(ATTACKS)
# A message and a note have limits.
SHORTER = EVERYTHING[:600]
HUGE = 300_000
"""Characters of the payload of the tool."""

# The ids and the texts of a prompt are counted: with others, the run does not fit together.
_COUNTED = {
    "MessageAdded.content",
    "MessageAdded.text",
    "SystemPromptCached.content",
    "SystemPromptCached.text",
    "SystemPromptCached.sha256",
    "TurnFinished.text",
    "TurnStarted.added_text",
    "RunForked.parent_run_id",
}
_PAYLOADS = {f"{kind}.{cls.traits.payload}" for kind, cls in EVENT_CLASSES.items()} | {
    "InterventionRequested.tensor_sha256"
}


def attack_tool(text: str) -> tt.ToolView:
    """
    Return texts that attack a page.

    Args:
        text: Any text.
    """
    return tt.ToolView(view={text: text}, payload={"full": SCRIPT * (HUGE // len(SCRIPT))})


def record_attack(lm: tt.LoadedModel, store: DatabaseStore) -> str:
    """Record a run that has the attacks wherever a user or a model may write; return its id."""
    # The second reply is free: bytes of a random model, which are no characters.
    processor = forced_reply(lm.tokenizer, [SCRIPT + ATTACKS[1]])
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 90}
    call = tt.ToolCall(name="attack_tool", arguments={"text": SHORTER})
    with tt.Investigation(
        lm,
        store=store,
        name=EVERYTHING.replace("\0", ""),
        system_prompt=SHORTER,
        tools=tt.ToolInterface([attack_tool]),
        seed=7,
    ) as run:
        run.chat(SHORTER, logits_processor=[processor], **settings)
        run.chat(SCRIPT, tool_calls=[call], **settings)
    store.note(run.run_id, "\n".join(ATTACKS[:6]))
    store.tag(run.run_id, SCRIPT)
    return run.run_id


def record_hostile_events(lm: tt.LoadedModel, path: Path) -> Path:
    """Write a database of runs in which every text field of every event is an attack."""
    with tt.open_store(path) as store:
        record_conversation(lm, store)
        record_failure(lm, store)
        record_family(lm, store)
        runs = {
            each.run_id: list(store.recording(each.run_id).records()) for each in store.summaries()
        }
    copied = Path(shutil.copy(path, path.with_name("hostile.db")))
    with Forger(copied) as forger:
        for index, (base, records) in enumerate(runs.items()):
            changed = with_all_fields(records, _COUNTED | _PAYLOADS)
            forger.add(f"ffffffff-0000-7000-8000-{index:012}", base, changed)
        forger.execute("UPDATE runs SET name = ?, model = ?", hostile("name"), hostile("model"))
    return copied
