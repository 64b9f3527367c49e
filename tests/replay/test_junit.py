"""The JUnit file is valid, and has a failure exactly where the replay fails."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import xmlschema

import tokentape as tt
from tests.replay.made_reports import (
    HOSTILE,
    bare,
    divergence,
    hostile,
    huge,
    not_numbers,
    of_verdict,
    report,
    turn,
)
from tokentape.replay.checking.noise_floor import FLOORS
from tokentape.replay.reports.junit import junit_xml
from tokentape.replay.results.report import Report
from tokentape.replay.results.verdict import Verdict
from tokentape.store import DatabaseStore

SCHEMA = Path(__file__).parent / "schemas" / "junit-10.xsd"
MADE: dict[str, list[Report]] = {
    "one": [report()],
    "none": [],
    "bare": [bare()],
    "not numbers": [not_numbers()],
    "every verdict": [of_verdict(verdict) for verdict in Verdict],
    "many": [huge(300, 20, divergences=100)],
    "slow": [report(duration_us=12_345_678_900)],
} | {name: [hostile(text)] for name, text in HOSTILE.items()}


@pytest.fixture(scope="module")
def schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(str(SCHEMA))


def suites_of(text: str) -> list[ElementTree.Element]:
    return ElementTree.fromstring(text.encode()).findall("testsuite")


def failures(suite: ElementTree.Element) -> list[ElementTree.Element]:
    return [*suite.iter("failure"), *suite.iter("error")]


def numbers_of(case: ElementTree.Element) -> dict[str, str]:
    output = case.findtext("system-out") or ""
    return dict(re.findall(r"^\[\[PROPERTY\|(\w+)=(.*)\]\]$", output, flags=re.MULTILINE))


def test_a_run_without_a_report_is_an_error_with_its_reason(schema: xmlschema.XMLSchema) -> None:
    text = junit_xml(
        [of_verdict(Verdict.VERIFIED)], errors=[("a.tape", "not a complete tape \x07")]
    )
    passed, broken = suites_of(text)

    schema.validate(text)
    assert not failures(passed)
    (error,) = failures(broken)
    assert (broken.get("name"), broken.get("errors")) == ("a.tape", "1")
    assert error.get("message") == "not a complete tape \\x07"
    assert ElementTree.fromstring(text.encode()).get("errors") == "1"


@pytest.mark.parametrize("made", MADE)
def test_servers_accept_the_file(made: str, schema: xmlschema.XMLSchema) -> None:
    text = junit_xml(MADE[made])

    schema.validate(text)
    assert text == junit_xml(MADE[made])
    root = ElementTree.fromstring(text.encode())
    assert len(root) == len(MADE[made])
    for suite in root:
        cases = suite.findall("testcase")
        assert suite.get("tests") == str(len(cases))
        assert suite.get("failures") == str(len(list(suite.iter("failure"))))
        assert suite.get("errors") == str(len(list(suite.iter("error"))))
        assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
    assert root.get("tests") == str(len(list(root.iter("testcase"))))


def test_the_schema_would_tell(schema: xmlschema.XMLSchema) -> None:
    assert not schema.is_valid(junit_xml([report()]).replace("<testcase ", "<testcase status='' "))


@pytest.mark.parametrize("verdict", Verdict)
def test_a_suite_fails_where_the_report_does(verdict: Verdict) -> None:
    made = of_verdict(verdict)
    (suite,) = suites_of(junit_xml([made]))

    assert bool(failures(suite)) != made.passes
    assert {each.get("type") for each in failures(suite)} == (set() if made.passes else {verdict})


def test_drift_that_is_allowed_is_no_failure() -> None:
    (suite,) = suites_of(junit_xml([of_verdict(Verdict.DRIFTED)], allow_drift=True))
    (other,) = suites_of(junit_xml([of_verdict(Verdict.DIVERGED)], allow_drift=True))

    assert not failures(suite)
    assert failures(other)


def test_a_turn_that_fails_shows_its_divergence_and_how_to_repeat_it() -> None:
    (suite,) = suites_of(junit_xml([report(altered=())]))
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    (failure,) = failures(suite)

    assert list(cases) == ["the recording as a whole", "turn 1", "turn 2", "turn 3", "turn 4"]
    assert cases["turn 2"].find("failure") is failure
    assert failure.get("message") == (
        "The model did not produce token 5 of turn 2: it was altered."
    )
    for part in ("turn 2, token 5, position 1415", "margin    5.43", "repeat: tokentape verify"):
        assert part in (failure.text or "")
    assert (failure.text or "").count("\nthen turn 2 token ") == 3


def test_the_numbers_of_turns_and_the_properties_of_the_run_are_there() -> None:
    made = report()
    (suite,) = suites_of(junit_xml([made]))
    properties = {each.get("name"): each.get("value") for each in suite.iter("property")}

    assert properties == {
        "run_id": made.run_id,
        "replay": "verify",
        "verdict": "diverged",
        "model": "smollm2-demo",
        "floor": FLOORS["float32"].version,
        "margin_eps": "0.001",
        "logprob_floor": "0.0001",
        "predicted_flips": "0.0013",
        "ignored": "weights",
        "repro": made.repro,
    }
    assert suite.get("time") == "2.135"
    numbers = [numbers_of(case) for case in suite.findall("testcase")[1:]]
    assert [each["verdict"] for each in numbers] == [turn.verdict for turn in made.turns]
    for found, expected in zip(numbers, made.turns, strict=True):
        assert int(found["tokens"]) == expected.tokens
        assert int(found["near_ties"]) == expected.near_ties
        for name in ("margin_max", "logprob_difference_max", "logprob_difference_mean"):
            assert float(found[name]) == pytest.approx(getattr(expected, name), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "element", "complaint"),
    [
        ({"verdict": Verdict.INCOMPARABLE, "altered": ()}, "error", "cannot"),
        ({"altered": ("turn 1: its seal is broken",)}, "failure", "its seal is broken"),
        ({"altered": (), "reason": "90 near ties: too many"}, "failure", "90 near ties: too many"),
    ],
    ids=["incomparable", "altered", "too many near ties"],
)
def test_what_concerns_the_whole_is_a_case_of_its_own(
    changes: dict[str, Any], element: str, complaint: str
) -> None:
    turns = (turn(1), turn(2, Verdict.NEAR_TIE, near_ties=90))
    made = report(turns=turns, divergences=(), causes=(), **({"reason": "cannot"} | changes))
    (suite,) = suites_of(junit_xml([made]))
    (found,) = failures(suite)

    assert found.tag == element
    assert suite.findall("testcase")[0].find(element) is found
    assert complaint in f"{found.get('message')} {found.text}"
    # An ignored fingerprint is named, and is no failure.
    assert "weights" not in (found.text or "")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_xml_forbids_is_spelt_out(text: str) -> None:
    written = junit_xml([hostile(text)])

    # An emoji may have joiners.
    assert written.replace("\n", "").replace("👩\u200d", "").isprintable()
    (suite,) = suites_of(written)
    name = suite.get("name") or ""
    assert name.replace("👩\u200d", "").isprintable()
    if text.isprintable() and 0 < len(text) < 100:
        assert name == f"verify {text}" or "\\u" in name


def test_real_replays_are_written_too(
    lm: tt.LoadedModel,
    make_lm: Callable[..., tt.LoadedModel],
    store: DatabaseStore,
    record: Callable[..., tt.Recording],
    schema: xmlschema.XMLSchema,
) -> None:
    recording = record(lm, store)
    found = [tt.verify(recording, lm), tt.verify(recording, make_lm("llama", seed=5))]
    text = junit_xml([*found, tt.regenerate(recording, lm)])
    honest, other, again = suites_of(text)

    schema.validate(text)
    assert not failures(honest)
    assert not failures(again)
    assert [each.tag for each in other.iter() if each.tag in ("error", "failure")] == [
        "error",
        *["failure"] * 4,
    ]
    assert "first divergence: turn 1, token 0" in (failures(other)[0].text or "")


def test_a_case_shows_one_divergence_in_full_and_counts_the_others() -> None:
    many = tuple(divergence(step=step) for step in range(100))
    (suite,) = suites_of(junit_xml([report(divergences=many, altered=())]))
    (failure,) = failures(suite)

    assert (failure.text or "").count("\nthen ") == 20
    assert "… 79 not shown; --json lists all" in (failure.text or "")
