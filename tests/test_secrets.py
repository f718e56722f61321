"""Keys: put into the environment, the command line and urls, they are found in nothing that is written or told."""

from __future__ import annotations

import base64
import http.server
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_model
from fake_endpoint import Said, serving

from truing import cli, formats
from truing.compute.generate import endpoint
from truing.compute.generate.endpoint import Declined, Endpoint
from truing.errors import ConfigError, MissingError
from truing.signatures import validated

CANARY = "sk-canary-5f1d2c9b7e"
FORMS = [
    CANARY.encode(),
    base64.b64encode(CANARY.encode()).rstrip(b"="),
    CANARY[3:].encode(),
    CANARY.encode().hex().encode(),
]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A recipe that asks a judge at a url, trains on what it says and reports; keys stand in the environment."""
    for name in ("JUDGE_KEY", "OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, CANARY)
    folder = tiny_model.save(tmp_path / "model")
    formats.write_data(tiny_model.pairs(12), tmp_path / "rows.jsonl", format="group")

    def write(url: str) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(f"""
name = "keys"
model = "{folder}"
precision = "fp32"
data.path = "{tmp_path / "rows.jsonl"}"
[[stage]]
use = "score"
scorer.name = "judge"
scorer.controls.most = 1.0
scorer.model = {{ url = "{url}", model = "m", key = "JUDGE_KEY", retries = 0, at_once = 1 }}
[[stage]]
use = "preference"
objective = "dpo"
max_steps = 1
""")
        return path

    return write


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command."""
    app = cli.app
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", ["truing", *arguments])
        patched.setattr(cli, "app", lambda **given: app(list(arguments), **given))
        try:
            cli.main()
        except SystemExit as left:
            return int(left.code or 0)
    return 0


def demand_clean(folder: Path, captured: Any) -> None:
    """The canary is in no file below the folder, and in nothing that was printed."""
    told = {"stdout": captured.out.encode(), "stderr": captured.err.encode()}
    files = {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for name, content in {**files, **told}.items():
        assert not [form for form in FORMS if form in content], name
        assert CANARY not in name


def says(body: dict[str, Any]) -> Said:
    """Two answers of different length get different points."""
    return Said(f"Score: {len(str(body['messages'])) % 5}")


def test_no_file_of_a_run_holds_a_key(
    recipe: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """The endpoint even repeats it in its replies."""
    out = tmp_path / "run"
    heard: list[str] = []

    def say(body: dict[str, Any]) -> Said:
        heard.append("asked")
        said = says(body)
        return said._replace(words=f"Your key {CANARY} is fine.\n{said.words}")

    with serving(say) as url:
        assert called(monkeypatch, "run", str(recipe(url)), "--out", str(out)) == 0, capfd.readouterr().err
    assert heard
    assert {"report.html", "events.jsonl"} <= {file.name for file in out.iterdir()}
    assert list(out.glob("checkpoint-*/README.md")), "the model card is among what was searched"
    demand_clean(tmp_path, capfd.readouterr())


@pytest.mark.parametrize("kind", ["refused", "crash", "odd key"])
def test_no_key_is_told_as_a_run_fails(
    kind: str, recipe: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """Not where the endpoint refuses it by name, in a traceback, or where no header can hold it."""
    out = tmp_path / "run"
    if kind == "crash":

        def broken(self: Endpoint, request: Any) -> dict[str, Any]:
            secret = self._secret  # in a frame of the traceback
            raise RuntimeError(f"a bug, {len(secret)} characters from the key")

        monkeypatch.setattr(Endpoint, "_once", broken)
    if kind == "odd key":
        monkeypatch.setenv("JUDGE_KEY", f"{CANARY}\nsecond: line")
    with serving(lambda _: Said(None, status=401)) as url:
        code = called(monkeypatch, "run", str(recipe(url)), "--out", str(out))
    captured = capfd.readouterr()
    assert code == (1 if kind == "crash" else 69)
    assert {"refused": "401", "crash": "RuntimeError", "odd key": "$JUDGE_KEY"}[kind] in captured.err
    demand_clean(tmp_path, captured)


@pytest.mark.parametrize(
    "setting",
    [
        f"score.scorer.model.url=http://user:{CANARY}@localhost/v1",
        f"score.scorer.model.url=http://localhost/v1?api_key={CANARY}",
        f"score.scorer.model.url=http://localhost/v1#{CANARY}",
        f"score.scorer.model.key={CANARY}",
        f"score.scorer.model.api_key={CANARY}",
        f'score.scorer.model.headers={{Authorization="Bearer {CANARY}"}}',
        f"seed.token={CANARY}",
        f"token={CANARY}",
    ],
)
def test_a_key_on_the_command_line_is_refused_and_not_repeated(
    setting: str, recipe: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    out = tmp_path / "run"
    assert called(monkeypatch, "run", str(recipe("http://localhost:1/v1")), setting, "--out", str(out)) == 2
    demand_clean(tmp_path, capfd.readouterr())
    assert not out.exists()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "localhost:8000/v1", "ftp://host/v1", "", "http://[broken"])
def test_only_http_is_spoken(url: str) -> None:
    with pytest.raises(ConfigError, match=r"url"):
        validated(Endpoint, {"url": url, "model": "m"}, "endpoint")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_key_does_not_follow_a_redirect(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", CANARY)
    got: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(str(self.headers["Authorization"]))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        asked = Endpoint(url=f"http://127.0.0.1:{server.server_port}/v1", model="m", key="JUDGE_KEY", retries=0)
        with pytest.raises(Declined, match=str(status)):
            asked.ask({})
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert got == [f"Bearer {CANARY}"], "one request, and the key not sent on"


def test_half_a_key_is_no_leak_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that stands where a long refusal is cut."""
    monkeypatch.setenv("JUDGE_KEY", CANARY)
    asked = Endpoint(url="http://localhost/v1", model="m", key="JUDGE_KEY")
    for before in range(470, 500):
        assert CANARY[:8] not in asked._hidden("x" * before + CANARY)[:500]


def test_a_reply_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "LONGEST", 1000)
    with serving(lambda _: Said("x" * 2000)) as url, pytest.raises(ValueError, match="the reply is longer"):
        Endpoint(url=url, model="m").ask({})
    with serving(lambda _: Said("x" * 500)) as url:
        assert Endpoint(url=url, model="m").ask({})["finish_reason"] == "stop"


def test_a_key_with_line_breaks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", f" {CANARY}\n")
    assert Endpoint(url="http://localhost/v1", model="m", key="JUDGE_KEY")._secret == CANARY, "one at its end is none"
    monkeypatch.setenv("JUDGE_KEY", f"{CANARY}\r\nHost: other")
    with pytest.raises(MissingError, match=r"\$JUDGE_KEY") as error:
        Endpoint(url="http://localhost/v1", model="m", key="JUDGE_KEY").ask({})
    assert CANARY not in str(error.value)
