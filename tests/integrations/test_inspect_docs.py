"""The evaluation of docs/inspect.md, on the command line and in Python, as a user runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")

from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log

import tokentape as tt

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
(COMMAND, *_) = re.findall(r"^\$ (inspect eval .*)$", PAGE, flags=re.MULTILINE)


def run_inspect(folder: Path, *more: str, model: str | None = None) -> EvalLog:
    """Run the command of the page in a folder with its file, and return the log."""
    (folder / "sums.py").write_text(BLOCKS[0])
    words = COMMAND.replace(
        "tokentape/smollm2-demo", f"tokentape/{model or 'smollm2-demo'}"
    ).split()
    program = [sys.executable, "-m", "inspect_ai", *words[1:], "--display", "none", *more]
    environment = dict(os.environ)
    environment.pop("TOKENTAPE_DATABASE_URL", None)
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    (found,) = list_eval_logs(str(folder / "logs"))
    return read_eval_log(found)


def logged_logprobs(log: EvalLog, index: int) -> list[float]:
    assert log.samples is not None
    outputs = [each.output for each in log.samples[index].events if each.event == "model"]
    found = [each.choices[0].logprobs for each in outputs]
    return [token.logprob for each in found if each is not None for token in each.content]


def test_inspect_eval_records_into_the_store_of_the_folder(
    tmp_path: Path, tiny_folder: Path
) -> None:
    log = run_inspect(tmp_path, "-T", "samples=2", "-M", "top_logprobs=1", model=str(tiny_folder))

    assert log.status == "success"
    with tt.open_store(tmp_path / "tokentape.db") as store:
        assert {each.status for each in store.summaries()} == {"finished"}
        tokens = tt.tokens_df(store)
        assert log.samples is not None
        for index, sample in enumerate(log.samples):
            (run_id,) = sample.store["tokentape_runs"]
            assert logged_logprobs(log, index) == list(
                tokens[tokens["run_id"] == run_id]["logprob"]
            )


def test_the_programs_of_the_page_run(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "sums.py").write_text(BLOCKS[0])
    program = "\n".join(BLOCKS[1:]).replace("smollm2-demo", str(tiny_folder))
    done = subprocess.run(
        [sys.executable, "-c", program.replace("logprobs=True", 'display="none"')],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "success"
    assert [line.split()[-1] for line in lines[1:3]] == ["verified", "verified"]
    assert lines[3].endswith(".eval")
    assert "sums: sample 1, epoch 1" in done.stdout


@pytest.mark.slow
@pytest.mark.demo_model
def test_twenty_samples_with_a_tool_on_the_demo_model_are_twenty_runs_that_verify(
    tmp_path: Path, demo_lm: tt.LoadedModel
) -> None:
    log = run_inspect(tmp_path)

    assert log.samples is not None
    assert len(log.samples) == 20
    calls = [each for sample in log.samples for each in sample.events if each.event == "tool"]
    assert len(calls) >= 15
    with tt.open_store(tmp_path / "tokentape.db") as store:
        assert [each.status for each in store.summaries()] == ["finished"] * 20
        tokens = tt.tokens_df(store)
        for index, sample in enumerate(log.samples):
            (run_id,) = sample.store["tokentape_runs"]
            assert tt.verify(store.recording(run_id), demo_lm).verdict == "verified"
            assert logged_logprobs(log, index) == list(
                tokens[tokens["run_id"] == run_id]["logprob"]
            )
