"""Runs are resumed and forked from the command line."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt
from tokentape.recorder.escapes import visible_lines

Cli = Callable[..., tuple[int, str, str]]
SAMPLED = {"do_sample": True, "temperature": 0.9}


def test_a_fork_repeats_the_turn_exactly_unless_a_setting_changes(
    cli: Cli, recorded: tt.Recording, url: str
) -> None:
    second = recorded.turns()[1]

    code, out, _ = cli("fork", recorded.run_id[:30], "--at-turn", "2", "--store", url, "--json")
    told = json.loads(out)
    assert code == 0
    assert told["turns"][0]["turn"] == 2
    assert told["turns"][0]["reply"] == second.reply_text

    code, out, _ = cli(
        "fork",
        recorded.run_id,
        "--at-turn",
        "2",
        "--set",
        "temperature=3.5",
        "--set",
        "seed=8",
        "--store",
        url,
        "--json",
    )
    other = json.loads(out)
    assert code == 0
    assert other["turns"][0]["reply"] != second.reply_text
    child = tt.open_store(url).recording(other["run_id"])
    forked = child.forked()
    assert forked is not None
    assert forked.changes == {"temperature": 3.5, "seed": 8}
    assert child.turns()[1].started.sampling["temperature"] == 3.5
    assert child.turns()[1].started.seed == 8
    assert child.turns()[1].messages == second.messages


def test_a_change_of_a_greedy_turn_says_what_to_add_and_that_works(
    cli: Cli, recorded: tt.Recording, url: str
) -> None:
    def fork(*changes: str) -> tuple[int, str, str]:
        sets = [word for each in changes for word in ("--set", each)]
        return cli("fork", recorded.run_id, "--at-turn", "2", "--store", url, *sets, "--json")

    code, out, _ = fork("do_sample=False")
    greedy = json.loads(out)["run_id"]
    assert code == 0
    for change in ("temperature=1.2", "seed=8"):
        arguments = ("fork", greedy, "--at-turn", "2", "--store", url)
        code, out, err = cli(*arguments, "--set", change)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{change} has no effect on a greedy turn: add do_sample=True" in err
    assert cli(*arguments, "--set", change, "--set", "do_sample=True", "--json")[0] == 0


def test_a_change_that_limits_replays_warns_before_the_turn(
    cli: Cli, recorded: tt.Recording, url: str
) -> None:
    arguments = ("fork", recorded.run_id, "--at-turn", "2", "--store", url)
    code, _, err = cli(*arguments, "--set", "max_time=9", "--set", "guidance_scale=1.5")

    (warned,) = [line for line in err.splitlines() if "warning" in line]
    assert code == 0
    assert "turns with guidance_scale cannot be replayed" in warned
    assert "turns with max_time can be verified but not retraced" in warned


def test_a_fork_can_send_another_message(cli: Cli, recorded: tt.Recording, url: str) -> None:
    code, out, _ = cli(
        "fork",
        recorded.run_id,
        "--at-turn",
        "3",
        "--message",
        "Otherwise?",
        "--store",
        url,
        "--json",
    )

    assert code == 0
    assert json.loads(out)["turns"][0]["messages"] == [{"role": "user", "content": "Otherwise?"}]


def test_a_forked_run_is_verified_from_the_command_line(
    cli: Cli, recorded: tt.Recording, url: str, tiny_folder: Path
) -> None:
    _, out, _ = cli("fork", recorded.run_id, "--at-turn", "3", "--store", url, "--json")
    child = json.loads(out)["run_id"]

    assert cli("verify", child, "--store", url, "--model", str(tiny_folder))[0] == 0
    assert cli("check", child, "--store", url)[0] == 0
    assert cli("rebuild", child, "--store", url)[0] == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--at-turn", "5"), "has no turn 5 to run again"),
        (("--at-turn", "5", "--message", "x"), "there is no turn 5 to begin: 3 turns are finished"),
        (("--at-turn", "2", "--set", "temperature"), "--set takes NAME=VALUE"),
        (("--at-turn", "2", "--set", "temprature=1"), "temprature"),
        (("--at-turn", "2", "--set", "temperature=-1"), "temperature"),
        (("--at-turn", "2", "--set", "length_penalty=2"), "length_penalty=2 has no effect"),
    ],
)
def test_what_cannot_be_forked_is_one_line_and_leaves_nothing(
    cli: Cli, recorded: tt.Recording, url: str, options: tuple[str, ...], complaint: str
) -> None:
    code, out, err = cli("fork", recorded.run_id, *options, "--store", url)

    assert (code, out) == (2, "")
    assert complaint in err
    assert "unexpected" not in err
    assert len(tt.open_store(url).summaries()) == 1


def test_the_lineage_is_drawn_from_its_oldest_run(
    cli: Cli, recorded: tt.Recording, url: str
) -> None:
    _, out, _ = cli("fork", recorded.run_id, "--at-turn", "2", "--store", url, "--json")
    child = json.loads(out)["run_id"]
    _, out, _ = cli("fork", child, "--at-turn", "3", "--message", "So?", "--store", url, "--json")
    grandchild = json.loads(out)["run_id"]

    code, out, _ = cli("show", child, "--tree", "--store", url)
    assert code == 0
    lines = out.splitlines()
    assert [
        run_id in line
        for run_id, line in zip((recorded.run_id, child, grandchild), lines, strict=True)
    ]
    assert "at turn 2" in lines[1]
    assert lines[1].endswith("*")
    told = json.loads(cli("show", grandchild, "--tree", "--store", url, "--json")[1])
    assert told["run_id"] == recorded.run_id
    assert told["forks"][0]["forks"][0]["run_id"] == grandchild


def test_resuming_a_complete_run_changes_no_turn(
    cli: Cli, recorded: tt.Recording, url: str
) -> None:
    before = recorded.turns()

    code, out, _ = cli("resume", recorded.run_id, "--store", url, "--json")

    assert (code, json.loads(out)["run_id"]) == (0, recorded.run_id)
    assert tt.open_store(url).recording(recorded.run_id).turns() == before
    assert cli("check", recorded.run_id, "--store", url)[0] == 0


def test_an_interrupted_plan_is_resumed_to_its_end(
    cli: Cli, tiny_folder: Path, url: str, tmp_path: Path
) -> None:
    plan = tmp_path / "short.yaml"
    plan.write_text(
        "name: short\ndescription: Four turns.\nsystem_prompt: Be kind.\n"
        # Long turns, so that the signal arrives before the last one ends.
        "limits: {max_new_tokens: 300}\n"
        "sampling: {do_sample: true, temperature: 0.9, min_new_tokens: 300}\n"
        "tasks:\n- {title: count, turns: ["
        + ", ".join(f'{{message: "Say {n}."}}' for n in range(4))
        + "]}\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-P", "-m", "tokentape", "run", str(plan), "--json"]
    options = ["--model", str(tiny_folder), "--store", url]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    _wait_for_a_turn(url)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    with tt.open_store(url) as store:
        (summary,) = store.summaries()
        assert summary.status == "interrupted"
        assert f"tokentape resume {summary.run_id}" in err

    code, out, _ = cli("resume", summary.run_id, "--store", url, "--json")

    assert code == 0
    assert [turn["turn"] for turn in json.loads(out)["turns"]] == [1, 2, 3, 4]
    assert cli("verify", summary.run_id, "--store", url, "--model", str(tiny_folder))[0] == 0


def _wait_for_a_turn(url: str) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists():
            with tt.open_store(url) as store:
                runs = store.summaries()
                if runs and any(turn.tokens for turn in store.recording(runs[0].run_id).turns()):
                    return
        time.sleep(0.02)
    raise AssertionError("no turn has begun")


@pytest.mark.parametrize(
    ("turn", "given", "said"),
    [
        ("2", ["--set", "max_new_tokens=0"], "max_new_tokens must be a whole number"),
        ("2", ["--set", "max_new_tokens=many"], "max_new_tokens must be a whole number"),
        ("2", ["--set", "temperature=Infinity"], "--set takes finite numbers"),
        ("2", ["--set", "temperature=1e400"], "--set takes finite numbers"),
        ("2", ["--message", "a\udc80b"], "--message contains an unpaired surrogate"),
        ("2", ["--message", " "], "--message is empty"),
        ("4", ["--message", "So?", "--set", "tool_calls=3"], "turns have no setting 'tool_calls'"),
        ("4", ["--message", "So?", "--set", "user_message=3"], "turns have no setting"),
        ("4", ["--message", "So?", "--set", "observe_layers=3"], "turns have no setting"),
    ],
)
def test_a_setting_that_no_fork_accepts_is_one_line_and_nothing_is_recorded(
    cli: Cli, recorded: tt.Recording, url: str, turn: str, given: list[str], said: str
) -> None:
    code, _, err = cli("fork", recorded.run_id, "--at-turn", turn, "--store", url, *given)

    assert code == 2
    assert err.count("\n") == 1
    assert said in err
    assert "unexpected" not in err
    with tt.open_store(url) as store:
        assert len(store.summaries()) == 1


def test_a_fork_at_a_token_prints_the_reply_and_the_diff_and_is_drawn(
    cli: Cli, recorded: tt.Recording, url: str
) -> None:
    where = ("--store", url)
    arguments = ("fork", recorded.run_id, "--at-turn", "2", "--at-token", "3", *where)
    code, out, err = cli(*arguments, "--token", "Z", "--continue", "--json")
    told = json.loads(out)
    child = tt.open_store(url).recording(told["run_id"])
    forked = child.forked()
    second = next(each for each in told["turns"] if each["turn"] == 2)

    assert code == 0, err
    assert forked is not None
    assert (forked.at_turn, forked.at_token) == (2, 3)
    assert forked.changes == {"token": "Z", "continue": True}
    assert [each["turn"] for each in told["turns"]] == [2, 3]
    assert second["generated_tokens"] == 8
    assert second["reply"] == child.conversation()[-3]["content"]
    assert not told["diff"]["same"]
    assert child.turns()[-1].messages == recorded.turns()[2].messages

    code, out, err = cli(*arguments, "--token-id", "90")
    assert code == 0, err
    assert out.startswith("reply of turn 2:\n")
    assert f"run {tt.open_store(url).summaries()[-1].run_id}" in out
    assert "turn 2" in out.split("run ", 1)[1]
    tree = " ".join(cli("show", told["run_id"], "--tree", *where)[1].split())
    assert "at turn 2, token 3" in tree
    fork = json.loads(cli("show", told["run_id"], "--tree", *where, "--json")[1])["forks"][0]
    assert (fork["forked_at_turn"], fork["forked_at_token"]) == (2, 3)
    for command in ("verify", "retrace", "regenerate"):
        assert cli(command, told["run_id"], *where)[0] == 0
    rebuilt = cli("rebuild", told["run_id"], *where)[1]
    assert visible_lines(second["reply"]) in rebuilt
    assert "not recorded yet" not in rebuilt
    lines = cli("show", told["run_id"], "--turn", "2", "--tokens", *where)[1]
    assert lines.count("experimenter") == 1


def test_a_fork_continues_with_the_messages_and_calls_of_its_parent(
    cli: Cli, recorded: tt.Recording, url: str
) -> None:
    code, out, err = cli(
        *("fork", recorded.run_id, "--at-turn", "1", "--set", "temperature=3.0"),
        *("--reply-prefix", "So", "--continue", "--store", url, "--json"),
    )
    told = json.loads(out)
    child = tt.open_store(url).recording(told["run_id"])

    assert code == 0, err
    assert [turn.number for turn in child.turns()] == [1, 2, 3]
    asked = [each for each in child.conversation() if each["role"] != "assistant"]
    assert asked == [each for each in recorded.conversation() if each["role"] != "assistant"]
    assert child.turns()[0].forced_steps == (0, 1)
    assert [turn.started.seed for turn in child.turns()] == [
        turn.started.seed for turn in recorded.turns()
    ]
    assert told["parent_run_id"] == recorded.run_id
    assert "turn 1" in told["diff"]["headline"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--token", "Z"), "--token needs --at-token"),
        (("--at-token", "2", "--token", "no"), "token 'no' is 2 tokens, not one: 'n' ("),
        (("--at-token", "2", "--token", "n", "--token-id", "3"), "not both"),
        (("--at-token", "2", "--message", "Hm?"), "leave out --at-token"),
        (("--at-token", "2", "--reply-prefix", "So"), "within a reply give --token"),
        (("--at-token", "99"), "its reply has the tokens 0 to 7"),
        (("--reply-prefix", "So long a beginning"), "19 tokens, and max_new_tokens=8 counts them"),
    ],
)
def test_a_fork_that_cannot_be_is_refused_in_one_line(
    cli: Cli, recorded: tt.Recording, url: str, options: tuple[str, ...], message: str
) -> None:
    code, out, err = cli("fork", recorded.run_id, "--at-turn", "2", *options, "--store", url)

    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert len(tt.open_store(url).summaries()) == 1


def test_a_fork_onto_another_model_is_labelled_and_replayed_with_it(
    cli: Cli,
    recorded: tt.Recording,
    url: str,
    tmp_path: Path,
    tiny_folder: Path,
    altered: Callable[..., tt.LoadedModel],
) -> None:
    other = altered(tt.load_model(tiny_folder), lambda model: model.lm_head.weight.mul_(1.5))
    other.model.save_pretrained(tmp_path / "louder")
    other.tokenizer.save_pretrained(tmp_path / "louder")
    where = ("--store", url)
    arguments = ("fork", recorded.run_id, "--at-turn", "2", "--model", str(tmp_path / "louder"))
    code, out, err = cli(*arguments, *where, "--json")
    run_id = json.loads(out)["run_id"]

    assert code == 0, err
    assert "this fork has another model than its parent (weights)" in err
    tree = " ".join(cli("show", run_id, "--tree", *where)[1].split())
    assert "at turn 2, with another model (weights), 1 turn of its own" in tree
    assert "weights" in cli("diff", recorded.run_id, run_id, *where)[1]
    code, out, err = cli("verify", run_id, *where, "--json")
    assert code == 0, err
    assert [turn["turn"] for turn in json.loads(out)["turns"]] == [2]
    assert cli("verify", recorded.run_id, *where)[0] == 0
