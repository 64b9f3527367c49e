"""The examples of docs/serve.md run, in order, as one program, against a server."""

import re
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt

pytest.importorskip("openai", reason="the extra `dev` has it")

from tests.integrations.endpoints import running_endpoint

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serve.md"


def test_the_examples_run(
    tmp_path: Path,
    lm: tt.LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    named = tt.LoadedModel(lm.model, lm.tokenizer, "smollm2-demo")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    with (
        tt.open_store("sqlite:///runs.db") as store,
        running_endpoint(named, store) as endpoint,
    ):
        for block in blocks:
            here = block.replace("http://127.0.0.1:8273/v1", endpoint.url)
            exec(compile(here, PAGE.name, "exec"), names)
        names["client"].close()
        names["store"].close()
    *_, cached, continued = capsys.readouterr().out.partition("turn step")[0].splitlines()[:3]
    prompt, reused = map(int, cached.split())

    assert len(blocks) == 3
    assert 40 < reused < prompt
    assert continued == "True 2"
