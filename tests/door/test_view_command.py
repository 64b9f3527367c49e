"""The command `view`: a run as a file, and the runs of a store on a server."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import tokentape as tt
from tests.replay.made_family import root
from tests.replay.made_talk import Said
from tokentape.commands.view import page_name
from tokentape.commands.view_serving import speller_loader
from tokentape.replay.view_server.forks import ForkWorker, served_fields
from tokentape.replay.view_server.spelled_ids import SpelledIds
from tokentape.replay.view_server.stored_runs import StoredRuns
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]
PAGE = re.compile(r"probe-[0-9a-f-]{13}\.html, \d+ kB: open it in a browser\n")


@pytest.fixture
def made(url: str) -> str:
    """The id of a run that no model recorded."""
    with tt.open_store(url) as store:
        assert isinstance(store, DatabaseStore)
        return root(store, (Said(),)).recording.run_id


def test_a_run_becomes_one_file_that_is_named_after_it(
    cli: Cli, recorded: tt.Recording, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_id = recorded.run_id
    for named in ("@last", "probe", run_id[:20], f"runs.db#{run_id}", "runs.db"):
        code, out, err = cli("view", named, "--store", url)
        assert (code, err) == (0, "")
        assert PAGE.fullmatch(out), out

    (page,) = tmp_path.glob("*.html")
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert not re.findall(r'\b(?:src|href)="(?!data:,")', text)
    assert f"probe-{recorded.run_id[:13]}" == page.stem
    assert cli("view", "runs.db")[0] == 0
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("probe 2", "probe-2-01a21d9a-f06f.html"),
        ("../../etc/passwd", "etc-passwd-01a21d9a-f06f.html"),
        ("", "run-01a21d9a-f06f.html"),
        ("..", "run-01a21d9a-f06f.html"),
        ("\x1b[2J\u202e\n", "2J-01a21d9a-f06f.html"),
        ("é漢" * 40, "é漢" * 20 + "-01a21d9a-f06f.html"),
    ],
)
def test_no_name_of_a_run_leads_to_another_folder(name: str, expected: str) -> None:
    assert page_name(name, "01a21d9a-f06f-7b03-afef-a6da944d10df") == expected


def test_the_output_is_named_its_folders_are_made_and_other_files_stay(
    cli: Cli, made: str, url: str, tmp_path: Path
) -> None:
    page, notes = tmp_path / "new" / "page.html", tmp_path / "notes.html"
    notes.write_text("<!doctype html><p>mine</p>")
    (tmp_path / "folder").mkdir()
    assert cli("view", "--store", url, "-o", str(page))[0] == 0
    assert cli("view", "--store", url, "-o", str(page))[0] == 0

    for taken in (notes, tmp_path / "folder", tmp_path / "runs.db"):
        before = taken.read_bytes() if taken.is_file() else b""
        code, out, err = cli("view", "--store", url, "-o", str(taken))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert (taken.read_bytes() if taken.is_file() else b"") == before


def test_json_is_the_document_and_writes_no_file(
    cli: Cli, recorded: tt.Recording, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = cli("view", "--store", url, "--json")

    document = json.loads(out)
    assert (code, document["kind"], len(document["turns"])) == (0, "run", 3)
    assert document["run"]["run_id"] == recorded.run_id
    assert not list(tmp_path.glob("*.html"))


def test_a_report_is_shown_under_its_label(
    cli: Cli, recorded: tt.Recording, url: str, tmp_path: Path
) -> None:
    assert cli("verify", "--store", url)[0] == 0
    report = tmp_path / "copy.json"
    report.write_text(cli("verify", "--store", url, "--no-keep", "--json")[1])
    given = ("--report", str(report), "--report", f"a copy={report}")
    document = json.loads(cli("view", "--store", url, "--json", *given)[1])

    shown = [(each["label"], each["verdict"]) for each in document["verdicts"]]
    assert shown == [("", "verified"), ("copy", "verified"), ("a copy", "verified")]


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", '{"verdict": 3}', "[" * 5000])
def test_a_file_that_is_no_report_is_refused(
    cli: Cli, made: str, url: str, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    code, out, err = cli("view", "--store", url, "--report", str(path), "-o", str(tmp_path / "p"))

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert str(path) in err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--port", "80"), "--port needs --serve"),
        (("--model", "x"), "--model needs --serve"),
        (("--dtype", "float32"), "--dtype needs --serve"),
        (("--serve", "-o", "x.html"), "leave it out with --serve"),
        (("--serve", "--model", "./missing"), "no model folder"),
        (("--serve", "--offline"), "need --model"),
        (("no-such-run",), "no run 'no-such-run'"),
        (("--serve", "no-such-run"), "no run 'no-such-run'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    cli: Cli, made: str, url: str, options: tuple[str, ...], complaint: str
) -> None:
    code, _, err = cli("view", "--store", url, *options)

    assert code == 2
    assert complaint in " ".join(err.split())


def test_a_page_in_a_notebook_is_a_frame_without_rights(
    made: str, url: str, tmp_path: Path
) -> None:
    with tt.open_store(url) as store:
        recorded = store.recording(made)
        page = tt.view(recorded)
    shown = page._repr_html_()

    assert shown.startswith('<iframe sandbox="allow-scripts" srcdoc="')
    assert "allow-same-origin" not in shown
    assert "<script" not in shown
    assert repr(page).startswith(f"<ViewPage {recorded.run_id} ")
    assert page.html() == tt.view(recorded).html()
    assert page.save(tmp_path / "a" / "page.html").read_text() == page.html()
    with pytest.raises(tt.ReplayError, match="no page of a run"):
        page.save(url.removeprefix("sqlite:///"))


def test_a_diff_is_also_a_page_and_keeps_its_exit_code(cli: Cli, url: str, tmp_path: Path) -> None:
    with tt.open_store(url) as store:
        assert isinstance(store, DatabaseStore)
        turns = (Said(), Said(asked="and? "))
        ids = [root(store, each).recording.run_id for each in (turns, turns, turns[:1])]
    page = tmp_path / "new" / "diff.html"

    code, out, _ = cli("diff", ids[0], ids[1], "--store", url)
    said = f"tokentape: {page} has both runs side by side: open it in a browser\n"
    assert cli("diff", ids[0], ids[1], "--store", url, "--html", str(page)) == (code, out, said)
    code, _, err = cli("diff", ids[0], ids[2], "--store", url, "--html", str(page))
    assert (code, err) == (1, said)
    assert page.read_text().startswith("<!doctype html>")
    code, _, err = cli("diff", *ids[:2], "--store", url, "--html", url.removeprefix("sqlite:///"))
    assert code == 2
    assert "no page of a run" in err


@contextlib.contextmanager
def serving(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Yield the address that `view --serve` prints, and its process."""
    command = [sys.executable, "-m", "tokentape", "view", "--serve", "--no-open", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.wait()


def answer(address: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Return the JSON that the server of an address answers."""
    parts = urlsplit(address)
    with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=60)) as client:
        headers = {"Origin": f"http://{parts.netloc}", "Content-Type": "application/json"}
        method = "GET" if body is None else "POST"
        client.request(method, f"{path}?{parts.query}", body and json.dumps(body), headers)
        response = client.getresponse()
        read = response.read()
        assert response.status in (200, 202), read
        return json.loads(read)


def test_a_served_page_starts_a_fork_that_replays_and_ctrl_c_ends_the_server(
    cli: Cli, recorded: tt.Recording, url: str, tiny_folder: Path
) -> None:
    options = (recorded.run_id, "--store", url, "--model", str(tiny_folder))
    with serving(*options) as (address, process):
        assert urlsplit(address).path == f"/run/{recorded.run_id}"
        document = answer(address, f"/api/run/{recorded.run_id}")
        assert document["served"]["can_fork"] is True
        point = {"run_id": recorded.run_id, "turn": 1, "token": 2, "token_id": 65}
        answer(address, "/api/fork", point)
        began = time.monotonic()
        while (fork := answer(address, "/api/forks")["fork"])["state"] in ("waiting", "running"):
            assert time.monotonic() - began < 60
            time.sleep(0.05)
        assert (fork["state"], fork["error"]) == ("finished", "")
        shown = answer(address, f"/api/run/{fork['run_id']}")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)

    assert process.returncode == 0
    assert "the server has stopped" in err
    assert urlsplit(address).query.partition("=")[2] not in err
    assert [each["turn"] for each in shown["turns"]] == [1, 2, 3]
    assert shown["run"]["parent"] == {"run_id": recorded.run_id, "turn": 1, "token": 2}
    with tt.open_store(url) as store:
        assert isinstance(store, DatabaseStore)
        assert [each.name for each in store.summaries()] == ["probe", "probe"]
    assert cli("verify", fork["run_id"], "--store", url)[0] == 0


@pytest.mark.parametrize("is_model_given", [False, True])
def test_a_running_turn_is_served_as_the_text_that_is_recorded_at_its_end(
    tmp_path: Path, tiny_folder: Path, is_model_given: bool
) -> None:
    lm = tt.load_model(tiny_folder)
    recorded = replace(lm, name="elsewhere") if is_model_given else lm
    worker = ForkWorker("tiny", lambda: lm, lambda *rest: None) if is_model_given else None
    live: list[dict[int, str]] = []
    with tt.open_store(tmp_path / "runs.db") as store:
        run = tt.Investigation(recorded, store=store, name="live", system_prompt="Look.")
        runs = StoredRuns(store, served_fields(worker), spelled=SpelledIds(speller_loader(worker)))

        def look(token_id: int, logits: object) -> None:
            seen.append(token_id)
            began = time.monotonic()
            while len(seen) == 6 and not live:
                assert time.monotonic() - began < 30
                shown = runs.run(run.run_id, 0, None)
                assert shown is not None
                texts = dict(zip(*shown["vocabulary"].values(), strict=True))
                live.extend([texts] if set(seen) <= set(texts) else [])
                time.sleep(0.01)

        seen: list[int] = []
        with run:
            run.chat("One?", max_new_tokens=9, min_new_tokens=9, callback=look)
        document = runs.run(run.run_id, 0, None)
        assert document is not None

    texts = dict(zip(*document["vocabulary"].values(), strict=True))
    assert live[0].items() <= texts.items()


def test_a_taken_port_is_one_line(made: str, url: str, cli: Cli) -> None:
    with serving(url.removeprefix("sqlite:///")) as (address, _):
        assert urlsplit(address).path == "/"
        port = str(urlsplit(address).port)
        code, _, err = cli("view", "--serve", "--no-open", "--store", url, "--port", port)

    assert code == 2
    assert err == (
        f"tokentape: cannot serve on port {port}: Address already in use; name another with "
        "--port, or leave it out for a free one\n"
    )
