"""The examples of docs/exports.md run, in order, as one program."""

import re
from pathlib import Path

import pytest

import tokentape as tt

PAGE = Path(__file__).resolve().parents[2] / "docs" / "exports.md"
REASON = "the extra `inspect` or `otel` is not installed"


def test_the_examples_run(
    tmp_path: Path,
    lm: tt.LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("inspect_ai.log", reason=REASON)
    pytest.importorskip("opentelemetry.sdk.trace", reason=REASON)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {"lm": lm}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    names["store"].close()  # type: ignore[attr-defined]

    assert capsys.readouterr().out.splitlines() == [
        "True ['system', 'user', 'tool', 'assistant', 'user', 'assistant']",
        "8 8",
        "4",
        "True False",
        "True False",
        str({"name": ["rain", f"probe/{names['run_id']}"], "turns": [0, 0]}),
        f"runs.eval, sample {names['run_id']}",
    ]
