"""Redacted text is in no file of a store, though a real model read and generated it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt
from tokentape.recorder.events import TokenSampled
from tokentape.store import DatabaseStore

SECRET = "Anna-4711@example.org"
NUMBER = 47114711
Cli = Callable[..., tuple[int, str, str]]


def redact(words: str) -> str:
    return re.sub(re.escape(SECRET), "[address]", words).replace(str(NUMBER), "[number]")


def recorded(lm: tt.LoadedModel, store: DatabaseStore) -> tt.Recording:
    tools = tt.default_tools(lm)
    layer = next(iter(dict(lm.model.named_parameters())))
    good = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": layer})
    bad = tt.ToolCall(
        name="get_weight_statistics", arguments={"layer_name": SECRET, "pin": NUMBER, SECRET: 1}
    )
    with tt.Investigation(
        lm,
        store=store,
        name=f"for {SECRET}",
        system_prompt=f"You write to {SECRET}.",
        tools=tools,
        seed=7,
        redactor=redact,
    ) as run:
        run.chat(f"Who is {SECRET}?", max_new_tokens=6, do_sample=False)
        run.chat(
            f"And {NUMBER}?",
            tool_calls=[good, bad],
            max_new_tokens=6,
            stop_strings=[SECRET],
        )
        run.chat("Again.", max_new_tokens=6)
    return store.recording(run.run_id)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def forms_of(lm: tt.LoadedModel) -> dict[str, bytes]:
    """The forms that the secret could have in a file: text, and ids in JSON or packed."""
    ids = lm.tokenizer.encode(SECRET, add_special_tokens=False)
    return {
        "text": SECRET.encode(),
        "escaped": json.dumps(SECRET).encode(),
        "number": str(NUMBER).encode(),
        "JSON ids": ",".join(map(str, ids)).encode(),
        "int16 ids": b"".join(each.to_bytes(2, "little") for each in ids),
        "int32 ids": b"".join(each.to_bytes(4, "little") for each in ids),
        "int64 ids": b"".join(each.to_bytes(8, "little") for each in ids),
    }


@pytest.mark.filterwarnings("ignore::tokentape.generation.errors.ToolFailedWarning")
def test_a_secret_is_in_no_file_and_the_run_still_reads(
    tmp_path: Path, lm: tt.LoadedModel, cli: Cli
) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        recording = recorded(lm, store)
        # While the store is open, its newest pages are in the log.
        held = files_of(tmp_path)
        assert str(path) + "-wal" in held
        for form, sought in forms_of(lm).items():
            assert [name for name, content in held.items() if sought in content] == [], form

        messages = recording.conversation()
        tokens = [each.event for each in recording.events() if isinstance(each.event, TokenSampled)]
        assert "[address]" in messages[0]["content"]
        assert "Who is [address]?" in [each["content"] for each in messages]
        assert {each.token_id for each in tokens} == {0}
        assert tt.check(store, recording.run_id).faults == ()
        rebuilt = tt.rebuild(recording)
        assert len(rebuilt.turns) == 3
        assert "[address]" in rebuilt.turns[-1].prompt_text
        for replay in (tt.verify, tt.regenerate):
            with pytest.raises(tt.TokentapeError, match="redacted"):
                replay(recording, lm)
        tt.export_parquet(recording, store, tmp_path / "sealed")
    with tt.open_store(tmp_path / "sealed") as sealed:
        copied = sealed.recording(recording.run_id)
        # Compressed, so that searching the bytes would prove nothing.
        read_back = repr(list(copied.records())) + tt.events_df(sealed).to_string()
        assert "[address]" in read_back
        assert SECRET not in read_back
        assert str(NUMBER) not in read_back
        assert tt.check(sealed, recording.run_id).faults == ()
    for arguments in (["rebuild"], ["show", "--turn", "1"], ["check"], ["list"]):
        code, out, err = cli(*arguments, "--store", str(path))
        assert code == 0, err
        assert SECRET not in out


def test_an_error_that_spells_the_secret_is_redacted(tmp_path: Path, lm: tt.LoadedModel) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        with (
            pytest.raises(ValueError, match=SECRET),
            tt.Investigation(lm, store=store, name="fails", system_prompt="Kind.", redactor=redact),
        ):
            raise ValueError(f"no {SECRET}")
        (summary,) = store.summaries()

        assert summary.status == "failed"
        assert tt.check(store, summary.run_id).ok
        assert SECRET.encode() not in b"".join(files_of(tmp_path).values())


def test_what_is_not_redacted_is_found_by_the_same_search(
    tmp_path: Path, lm: tt.LoadedModel
) -> None:
    """The search of the test above, where there is something to find."""
    with tt.open_store(tmp_path / "runs.db") as store:
        with tt.Investigation(lm, store=store, name="open", system_prompt="Kind.") as run:
            run.chat(f"{SECRET} {NUMBER}", max_new_tokens=2)
        held = b"".join(files_of(tmp_path).values())

    found = {form for form, sought in forms_of(lm).items() if sought in held}
    assert {"text", "number", "JSON ids"} <= found


def test_a_folder_of_prefixes_is_refused_beside_a_redactor(
    tmp_path: Path, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """It would keep the ids of the system prompt, which spell it."""
    with pytest.raises(tt.PromptError, match="give one or the other"):
        tt.Investigation(
            lm,
            store=store,
            name="n",
            system_prompt="Be kind.",
            redactor=str.upper,
            prefix_folder=tmp_path / "prefixes",
        )
