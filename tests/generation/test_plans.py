"""Plans are data: a mistake in a file is reported in one line, and a plan is recorded whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import tokentape as tt
from tokentape.generation.plans import ExperimentPlan, load_plan, shipped_plans

WHOLE: dict[str, Any] = {
    "name": "mine",
    "system_prompt": "Look. {tools} {memory}",
    "tools": ["get_weight_statistics"],
    "tasks": [
        {
            "title": "One",
            "turns": [
                {
                    "message": "First?",
                    "tool_calls": [
                        {"name": "get_weight_statistics", "arguments": {"layer_name": "{layer:0}"}}
                    ],
                },
                "Second?",
            ],
        },
        {"title": "Two", "turns": [{"message": "Third?", "concludes": True}, "Fourth?"]},
    ],
}
PAUSES = {
    "before_first_task": "Nothing yet.",
    "before_last_task": "Nothing still.",
    "after_conclusions": "Nothing at all.",
}
PHASES = ["phase1a", "phase1b", "phase1c", "phase1d", "phase1e"]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def to_file(value: object, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
        return path

    return to_file


def messages(plan: ExperimentPlan) -> list[str]:
    return [turn.message for turn in plan.turns()]


def phases() -> list[ExperimentPlan]:
    return [load_plan(name) for name in PHASES]


def test_six_plans_are_shipped_and_each_has_twenty_turns() -> None:
    shipped = shipped_plans()

    assert [each.name for each in shipped] == ["demo", *PHASES]
    assert [len(each.turns()) for each in shipped] == [20] * 6
    assert all(turn.number == n for each in shipped for n, turn in enumerate(each.turns(), 1))


def test_variants_differ_only_in_the_turn_that_brings_a_document() -> None:
    baseline, *variants = (each.turns() for each in phases())
    differing = [
        [turn.number for turn, base in zip(turns, baseline, strict=True) if turn != base]
        for turns in variants
    ]
    bringing = [[turn.number for turn in turns if turn.document] for turns in variants]

    assert not any(turn.document for turn in baseline)
    assert differing == bringing
    assert [len(numbers) for numbers in bringing] == [1, 1, 1, 1]


def test_the_document_comes_at_the_time_of_the_variant() -> None:
    tasks = {each.name: each.turns() for each in phases()}
    place = {
        name: next((turn.number for turn in turns if turn.document), None)
        for name, turns in tasks.items()
    }
    last_task = [turn.number for turn in tasks["phase1a"] if turn.task == "Conclusions"]

    assert place["phase1a"] is None
    assert place["phase1b"] == place["phase1e"] == 1
    assert place["phase1c"] == last_task[0] - 1
    assert last_task[0] < place["phase1d"] < last_task[-1]
    assert "{document}" not in "".join(turn.message for turns in tasks.values() for turn in turns)


@pytest.mark.demo_model
def test_the_control_is_as_long_as_the_background(demo_lm: tt.LoadedModel) -> None:
    documents = [load_plan(name).background.document for name in ("phase1b", "phase1e")]
    tokens = [len(demo_lm.tokenizer.encode(each.text)) for each in documents if each]
    words = [len(each.text.split()) for each in documents if each]

    assert max(tokens) / min(tokens) < 1.1
    assert all(300 <= count <= 500 for count in words)
    assert documents[0] != documents[1]


@pytest.mark.parametrize("name", ["demo", *PHASES])
def test_a_plan_can_be_read_back_from_its_record(name: str) -> None:
    plan = load_plan(name)
    recorded = json.loads(json.dumps(plan.described()))

    assert ExperimentPlan.from_described(recorded) == plan
    assert ExperimentPlan.from_described(recorded).turns() == plan.turns()


def test_the_record_of_a_plan_is_a_valid_plan_file(write: Callable[..., Path]) -> None:
    plan = load_plan("phase1d")

    assert load_plan(write(plan.described())) == plan


def test_overrides_replace_values_of_the_plan() -> None:
    plan = load_plan("phase1a").with_overrides(seed=-3, turns_max=4, max_new_tokens=500)

    assert plan.seed == -3
    assert [turn.settings["max_new_tokens"] for turn in plan.turns()] == [500] * 4
    assert ExperimentPlan.from_described(plan.described()) == plan
    with pytest.raises(tt.PromptError, match=r"phase1a: limits.turns_max must be at least 1"):
        plan.with_overrides(turns_max=0)


def test_sampling_of_a_turn_overrides_that_of_its_task_and_of_the_plan(
    write: Callable[..., Path],
) -> None:
    tasks = [
        {
            "title": "T",
            "sampling": {"temperature": 0.5, "top_k": 5},
            "turns": [{"message": "?", "sampling": {"top_k": 9}}],
        }
    ]
    whole = {**WHOLE, "sampling": {"do_sample": True, "temperature": 1.5}, "tasks": tasks}
    (turn,) = load_plan(write(whole)).turns()

    assert turn.settings == {
        "do_sample": True,
        "temperature": 0.5,
        "top_k": 9,
        "max_new_tokens": 48,
    }


@pytest.mark.parametrize(
    ("when", "place"),
    [
        ("never", None),
        ("before_first_task", 0),
        ("before_last_task", 3),
        ("after_conclusions", 5),
    ],
)
def test_a_pause_has_the_document_or_its_filler_message(
    write: Callable[..., Path], when: str, place: int | None
) -> None:
    document = {"name": "d", "text": "The text."}
    background = {"when": when, "document": document, "message": "Read: {document}"}
    said = messages(load_plan(write({**WHOLE, "background": background | {"pauses": PAUSES}})))
    expected = [
        *("Nothing yet.", "First?", "Second?"),
        *("Nothing still.", "Third?", "Nothing at all.", "Fourth?"),
    ]
    if place is not None:
        expected[place] = "Read: The text."

    assert said == expected
    alone = messages(load_plan(write({**WHOLE, "background": background})))
    assert len(alone) == (4 if place is None else 5)


def test_paths_of_a_document_and_of_an_extended_plan_are_relative_to_the_file(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    (tmp_path / "text.md").write_text("About ants: äöü.")
    write({**WHOLE, "sampling": {"top_k": 7}, "limits": {"max_new_tokens": 5}}, "base.yaml")
    child = {
        "extends": "base.yaml",
        "name": "child",
        "limits": {"turns_max": 2},
        "background": {"when": "before_first_task", "document": "text.md"},
    }
    plan = load_plan(write(child))

    assert plan.limits.max_new_tokens == 5
    assert plan.limits.turns_max == 2
    assert plan.sampling == {"top_k": 7}
    assert messages(plan) == ["Here is a text to read.\n\nAbout ants: äöü.", "First?"]


def changed(path: str, value: object) -> dict[str, Any]:
    whole: Any = json.loads(json.dumps(WHOLE))
    *before, last = path.split(".")
    part = whole
    for name in before:
        part = part[int(name) - 1] if name.isdigit() else part.setdefault(name, {})
    part[last] = value
    return whole  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("name", None, "name must be a string, not null"),
        ("name", "a\0b", "name has a NUL character"),
        ("name", 7, "name must be a string, not 7"),
        ("system_prompt", "  ", "system_prompt is empty"),
        ("system_promt", "x", "system_promt is not a field (did you mean 'system_prompt'?)"),
        ("seed", "7", 'seed must be an integer, not "7"'),
        ("seed", 2**63, "seed must be at least -9223372036854775808 and below 2**63"),
        ("tasks", [], "tasks is empty"),
        ("tasks", "First?", 'tasks must be an array, not "First?"'),
        ("tasks.1.turns", [], "tasks.1.turns is empty"),
        ("tasks.2.title", "", "tasks.2.title is empty"),
        (
            "tasks.2.turns",
            [3],
            "tasks.2.turns.1 must be an object with the fields message, tool_calls,",
        ),
        ("tasks.2.turns", ["a", ""], "tasks.2.turns.2.message is empty"),
        (
            "tasks.2.turns",
            [{"message": "?", "concludes": "yes"}],
            "concludes must be true or false",
        ),
        (
            "tasks.1.sampling",
            {"temprature": 1},
            "temprature is not a setting of generate (did you mean 'temperature'?); temp",
        ),
        ("tasks.1.sampling", [1], "tasks.1.sampling must be an object"),
        ("tasks.1.sampling", {"max_new_tokens": 1}, "use limits.max_new_tokens"),
        ("sampling", {"temperature": float("nan")}, "sampling.temperature must be JSON"),
        ("tools", [], "tasks.1.turns.1.tool_calls call 'get_weight_statistics', which is not in"),
        ("limits", {"max_new_tokens": 0}, "limits.max_new_tokens must be at least 1"),
        ("limits", {"max_new_tokens": True}, "limits.max_new_tokens must be an integer"),
        ("limits", {"tool_calls_max": -1}, "limits.tool_calls_max must be at least 0"),
        (
            "limits.at_context_limit",
            "prune",
            'must be one of "refuse", "prune_tool_results", "prune_turns"',
        ),
        (
            "background.when",
            "later",
            'must be one of "never", "before_first_task", "before_last_task", "after',
        ),
        ("background.when", False, "background.when must be a string, not false"),
        ("background.when", "before_first_task", "background.document is missing: it is due"),
        ("background.message", "Read it.", "background.message has no {document} in it"),
        ("background.document", "gone.md", "background.document cannot be loaded: cannot read"),
        ("background.pauses", {"later": "x"}, 'pauses.later must be one of "before_first_task"'),
        (
            "extends",
            "nothing.yaml",
            "extends has no plan: 'nothing.yaml' is neither a shipped plan (demo",
        ),
        ("extends", "mine.yaml", "extends leads back to a file that extends this one"),
    ],
)
def test_a_mistake_is_one_line_with_file_field_and_rule(
    write: Callable[..., Path], path: str, value: object, said: str
) -> None:
    file = write(changed(path, value))
    with pytest.raises(tt.PromptError) as refused:
        load_plan(file)

    assert str(refused.value).startswith(f"{file}: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_plan_concludes_once_and_has_a_conclusion_if_a_pause_follows_it(
    write: Callable[..., Path],
) -> None:
    twice = changed("tasks.1.turns", [{"message": "?", "concludes": True}])
    with pytest.raises(tt.PromptError, match="tasks conclude 2 times: mark one turn"):
        load_plan(write(twice))
    never = changed("tasks.2.turns", ["?"]) | {"background": {"pauses": PAUSES}}
    with pytest.raises(
        tt.PromptError, match="has a message for after_conclusions, but no turn has"
    ):
        load_plan(write(never))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "is not YAML: while parsing"),
        ("", "is not a plan: it has no fields"),
        ("- a\n- b", "is not a plan: it has no fields"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
        ("!!python/object/apply:os.system ['false']", "could not determine a constructor"),
        ("a: 2020-13-45", "cannot be read as YAML: month must be in 1..12"),
        ("name: &a [*a]", "an alias leads back to a value that contains it"),
        ("? [1]\n: 2", "is not YAML"),
        ("[" * 3000, "cannot be read as YAML"),
    ],
)
def test_a_file_without_a_plan_is_rejected(
    write: Callable[..., Path], text: str, said: str
) -> None:
    file = write(text)
    with pytest.raises(tt.PromptError) as refused:
        load_plan(file)

    assert said in str(refused.value)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_or_unreadable_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        tt.PromptError, match=r"'phase9' is neither a shipped plan \(demo, phase1a, "
    ):
        load_plan("phase9")
    with pytest.raises(tt.PromptError, match="is neither a shipped plan"):
        load_plan(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: \xe9".encode("latin-1"))
    with pytest.raises(tt.PromptError, match="it is not text in UTF-8"):
        load_plan(tmp_path / "latin.yaml")


def test_a_mistake_in_an_extended_plan_is_reported_with_its_own_file(
    write: Callable[..., Path],
) -> None:
    write(changed("seed", "x"), "base.yaml")
    with pytest.raises(tt.PromptError, match=r"base\.yaml: seed must be an integer"):
        load_plan(write({"extends": "base.yaml", "name": "child"}))
    with pytest.raises(tt.PromptError, match=r"mine\.yaml: name is missing"):
        load_plan(write({"extends": "phase1a"}))
