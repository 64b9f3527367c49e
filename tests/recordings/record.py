"""Record the tape of a version: every kind of event, with a tiny model.

`python -m tests.recordings.record tests/recordings/X.Y.Z.tape` writes the tape and its summary. Run
it for a version that is not released; the tape of a released version never changes again.
"""

import contextlib
import hashlib
import json
import sys
import tempfile
import warnings
from pathlib import Path
from unittest.mock import patch

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tokentape.generation.errors import ForkWarning
from tokentape.recorder.codec import dump_canonical
from tokentape.recorder.seals import check_seals
from tokentape.replay import Rebuilt
from tokentape.store import DatabaseStore

NEW_TOKENS = 4


def record_conversation(lm: tt.LoadedModel, store: tt.EventLog) -> str:
    """Tools, sampling, a history that is pruned, a cache given up and one that is cleared."""
    layer = "model.layers.0.input_layernorm.weight"
    look = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": layer})
    with tt.Investigation(
        lm,
        store=store,
        name="conversation",
        system_prompt="Be kind.",
        tools=tt.default_tools(lm),
        seed=7,
        at_context_limit="prune_turns",
        cache_bytes=60_000,
    ) as run:
        run.chat("What of layer 0?", tool_calls=[look], max_new_tokens=NEW_TOKENS)
        for number in range(6):
            run.chat(
                f"Say it once more, in other words than before, for the {number}. time. " * 4,
                max_new_tokens=NEW_TOKENS,
                do_sample=True,
                temperature=0.8,
                top_p=0.9,
            )
        run.generator.clear_cache()
        run.chat("And now?", max_new_tokens=NEW_TOKENS)
    return run.run_id


def record_failure(lm: tt.LoadedModel, store: tt.EventLog) -> str:
    """A run that is cut off in its second turn."""

    def stop(token_id: int, logits: object) -> None:
        raise RuntimeError("enough")

    run = tt.Investigation(lm, store=store, name="failure", system_prompt="Be kind.", seed=8)
    with contextlib.suppress(RuntimeError), run:
        run.chat("Is 'naïve' – é, 🦜 – a word?\n\t\"Yes\\no\"", max_new_tokens=NEW_TOKENS)
        run.chat("Go on.", max_new_tokens=NEW_TOKENS, callback=stop)
    return run.run_id


def record_family(lm: tt.LoadedModel, store: DatabaseStore) -> list[str]:
    """Record a run with observations and an intervention, its resumption, and a fork of it."""

    def stop(token_id: int, logits: object) -> None:
        raise KeyboardInterrupt

    run = tt.Investigation(lm, store=store, name="family", system_prompt="Be kind.", seed=9)
    with contextlib.suppress(KeyboardInterrupt), run:
        run.watch([1])
        run.chat("What is it like?", max_new_tokens=NEW_TOKENS)
        run.unwatch()
        louder = tt.Intervention.scale("louder", ["model.layers.1"], 1.5, positions="generated")
        run.intervene(louder)
        run.chat("And now?", max_new_tokens=NEW_TOKENS, do_sample=True)
        run.chat("Go on.", max_new_tokens=NEW_TOKENS, callback=stop)
    with tt.Investigation.resume(store, run.run_id, lm) as resumed:
        resumed.withdraw("louder")
        resumed.chat("As before?", max_new_tokens=NEW_TOKENS)
    with warnings.catch_warnings():
        # It is said that the intervention is not repeated.
        warnings.simplefilter("ignore", ForkWarning)
        fork = tt.Investigation.fork(store, run.run_id, lm, at_turn=2)
    with fork:
        fork.chat("Another way.", reply_prefix="So", max_new_tokens=NEW_TOKENS)
    with tt.Investigation.fork(
        store, fork.run_id, lm, at_turn=2, at_token=3, token="Z"
    ) as other_token:
        other_token.chat("And on.", max_new_tokens=NEW_TOKENS)
    return [run.run_id, fork.run_id, other_token.run_id]


def record_together(lm: tt.LoadedModel, store: tt.EventLog) -> list[str]:
    """Two runs of a batch, whose tokens are forwarded together."""

    def talk(number: int) -> str:
        with tt.Investigation(
            lm, store=store, name=f"together-{number}", system_prompt="Be kind.", seed=number
        ) as run:
            run.chat("What is it like?", max_new_tokens=4 * NEW_TOKENS)
        return run.run_id

    with tt.Batch(lm, size=2) as batch:
        jobs = [batch.start(talk, number) for number in (1, 2)]
    return [job.result() for job in jobs]


def record_imported(store: DatabaseStore) -> str:
    """A conversation of another program, with calls and log-probabilities."""

    def call(call_id: str) -> dict[str, object]:
        function = {"name": "look", "arguments": '{"at": "the window"}'}
        return {"id": call_id, "type": "function", "function": function}

    conversation = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Is it \u2028 raining?\n"},
        {"role": "assistant", "tool_calls": [call("c1")]},
        {"role": "tool", "tool_call_id": "c1", "content": "It is."},
        {"role": "user", "content": "And now?"},
    ]
    token = {"token": "So", "logprob": -0.5, "bytes": [83, 111], "top_logprobs": []}
    choice = {
        "message": {"role": "assistant", "content": "So", "tool_calls": [call("c2")]},
        "finish_reason": "tool_calls",
        "logprobs": {"content": [token]},
    }
    line = {
        "id": "imported",
        "request": {"model": "other", "messages": conversation},
        "response": {"model": "other-1", "choices": [choice], "created": 1_700_000_000},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chats.jsonl"
        path.write_text(json.dumps(line) + "\n", encoding="utf-8")
        (imported,) = tt.import_runs(path, store)
    return imported.run_id


def said(rebuilt: Rebuilt) -> str:
    """Hexadecimal sha256 of the ids and texts of every prompt and reply."""
    turns = [
        [turn.prompt_ids, turn.prompt_text, turn.reply_ids, turn.reply_text]
        for turn in rebuilt.turns
    ]
    return hashlib.sha256(dump_canonical(turns).encode()).hexdigest()


def said_without_tokens(run: tt.Recording) -> str:
    """Hexadecimal sha256 of the messages of an imported conversation."""
    return hashlib.sha256(dump_canonical(run.conversation()).encode()).hexdigest()


def described(tape: Path) -> dict[str, dict[str, str]]:
    """Return the summary that is stored next to a tape."""
    with tt.open_store(tape) as store:
        runs = [store.recording(each.run_id) for each in store.summaries()]
        return {
            run.run_id: {
                "said_sha256": said_without_tokens(run)
                if run.imported()
                else said(tt.rebuild(run)),
                "last_seal": str(check_seals(run.run_id, run.records()).last_seal),
            }
            for run in runs
        }


def main(path: Path) -> None:
    lm = tiny_model("llama", byte_tokenizer(), max_position_embeddings=1024)
    # The tape must not name the machine.
    with (
        patch("platform.platform", return_value="Linux"),
        patch("socket.gethostname", return_value="localhost"),
        tt.open_store("sqlite://") as store,
    ):
        run_ids = [
            record_conversation(lm, store),
            record_failure(lm, store),
            *record_family(lm, store),
            *record_together(lm, store),
            record_imported(store),
        ]
        tt.pack([store.recording(run_id) for run_id in run_ids], store, path)
    summary = json.dumps(described(path), indent=2)
    path.with_suffix(".json").write_text(summary + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
