"""The command `plan` reckons the memory of a run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.generation.test_memory_plan import LLAMA_8B

DOCS = Path(__file__).parents[2] / "docs" / "memory.md"
Cli = Callable[..., tuple[int, str, str]]


def test_it_says_how_many_turns_fit_and_proposes_a_budget(tiny_folder: Path, cli: Cli) -> None:
    code, out, err = cli(
        "plan", str(tiny_folder), "--prompt-tokens", "100,300", "--device", "cpu:2GiB"
    )
    assert (code, err) == (0, "")
    assert "weights" in out
    assert "2 of 2 turns fit" in out
    assert "budget: cache_bytes=" in out
    assert "prefill_chunk_tokens=512, context_tokens=2048" in out


def test_json_has_all_that_the_plan_has(tiny_folder: Path, cli: Cli) -> None:
    code, out, _ = cli(
        "plan", str(tiny_folder), "--prompt-tokens", "100,300", "--device", "cuda:400MiB", "--json"
    )
    found = json.loads(out)

    assert code == 0
    assert found["weights_bytes"] == 509_696
    assert found["kv_bytes_per_1000_tokens"] == 768_000
    assert (found["turns_fit"], found["budget"]) == (0, None)
    assert found["free_bytes"] < 0
    assert [turn["fits"] for turn in found["turns"]] == [False, False]


def test_it_says_whether_memory_or_the_context_is_too_small(tiny_folder: Path, cli: Cli) -> None:
    _, context, _ = cli(
        "plan", str(tiny_folder), "--prompt-tokens", "100,3000", "--device", "cpu:2GiB"
    )
    _, memory, _ = cli("plan", str(tiny_folder), "--prompt-tokens", "100", "--device", "cpu:1MiB")

    assert "no: context" in context
    assert "1 of 2 turns fit" in context
    assert "no: memory" in memory
    assert "budget: none" in memory


def test_it_reckons_with_an_experiment_plan(tiny_folder: Path, cli: Cli) -> None:
    code, out, _ = cli("plan", str(tiny_folder), "--protocol", "phase1a", "--device", "cpu:2GiB")

    assert code == 0
    assert "note: results of tools have a typical length" in out
    # The context of the tiny model has 2,048 tokens, and the plan prunes what exceeds it.
    assert "20 of 20 turns fit" in out


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("nothing/here",), "no config of the model"),
        (("./nothing",), "there is no model folder"),
        (("nothing.json",), "there is no config"),
        (("--dtype", "int3"), "there is no dtype 'int3'"),
        (("--quantization", "int3"), "'int3' is not known: there are int8"),
        (("--device", "tpu"), "there is no device 'tpu'"),
        (("--protocol", "phase9"), "phase9"),
        (("--attn-implementation", "magic"), "magic"),
        (("--prompt-tokens", "3,2", "--device", "cpu:1GiB"), "rising numbers"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], fault: str, tiny_folder: Path, cli: Cli
) -> None:
    named = arguments if not arguments[0].startswith("--") else (str(tiny_folder), *arguments)
    code, out, err = cli("plan", *named)

    assert (code, out) == (2, "")
    assert fault in err
    assert err.count("\n") == 1


def test_a_damaged_config_is_one_line(tmp_path: Path, cli: Cli) -> None:
    for content in ("", "{", "[]", '{"model_type": "llama", "hidden_size": -3}', "\0\0"):
        file = tmp_path / "config.json"
        file.write_text(content)
        code, out, err = cli("plan", str(file), "--device", "cpu:1GiB")
        assert (code, out) == (2, "")
        assert err.count("\n") == 1


def test_the_example_of_the_docs_is_what_it_prints(tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA_8B))
    given = ("--dtype", "bfloat16", "--prompt-tokens", "6287,6614,12783", "--device", "cuda:24GiB")
    shown = DOCS.read_text().partition("```text\n")[2].partition("```")[0]
    _, out, _ = cli("plan", str(file), *given)
    _, eager, _ = cli(
        "plan", str(file), *given, "--attn-implementation", "eager", "--prefill-chunk-tokens", "0"
    )
    assert shown.strip()
    assert [line for line in shown.splitlines() if line not in out.splitlines()] == []
    assert "0 of 3 turns fit" in eager


def test_the_arithmetic_of_the_docs_is_right() -> None:
    rows = [line.split("|")[2:4] for line in DOCS.read_text().splitlines() if " × " in line]
    for arithmetic, gigabytes in rows:
        plain = arithmetic.replace(",", "").replace("×", "*").replace("²", "**2")
        assert f"{eval(plain) / 1e9:.2f}" == gigabytes.strip()
    assert len(rows) == 5
