"""Without the library of an extra, an export or an import says in one line which extra it needs."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt

Cli = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("form", "library", "extra"),
    [
        ("eval", "inspect_ai", "inspect"),
        ("scout", "inspect_scout", "scout"),
        ("otlp", "opentelemetry", "otel"),
    ],
)
def test_an_export_names_its_extra(
    form: str,
    library: str,
    extra: str,
    runs_db: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Cli,
) -> None:
    # The parent package is what an installation lacks.
    for name in [*sys.modules]:
        if name.partition(".")[0] == library:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)

    code, printed, message = cli(
        *("export", "--all", "--to", form, "-o", str(tmp_path / "x.eval")),
        *("--store", str(runs_db)),
    )

    assert (code, printed) == (2, "")
    assert message.endswith(
        f'needs {library}, which is not installed: pip install "tokentape[{extra}]"\n'
    )
    assert message.count("\n") == 1
    assert not (tmp_path / "x.eval").exists()


def test_a_log_of_inspect_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    log = {"version": 2, "status": "success", "eval": {"eval_id": "x"}, "samples": []}
    (tmp_path / "x.json").write_text(json.dumps(log), encoding="utf-8")
    for name in [*sys.modules]:
        if name.partition(".")[0] == "inspect_ai":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "inspect_ai", None)

    code, _, message = cli("import", str(tmp_path / "x.json"), "--store", str(tmp_path / "runs.db"))

    assert code == 2
    assert 'pip install "tokentape[inspect]"' in message


def test_lines_of_chat_messages_need_no_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    (tmp_path / "x.jsonl").write_text('[{"role": "user", "content": "a"}]\n', encoding="utf-8")

    with tt.open_store("sqlite://") as store:
        assert len(tt.import_runs(tmp_path / "x.jsonl", store)) == 1  # type: ignore[arg-type]
