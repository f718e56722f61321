"""An OpenAI-compatible endpoint on this machine that answers as a function says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Said(NamedTuple):
    """A reply: its words, why they end, and the status of HTTP.

    missing: bytes that its Content-Length promises and that never come. retry_after: the header of that name, if any.
    """

    words: str | None
    reason: str = "stop"
    status: int = 200
    missing: int = 0
    retry_after: str = ""


@contextmanager
def serving(say: Callable[[dict[str, Any]], Said]) -> Iterator[str]:
    """The url at which `say` answers the bodies that are sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = say(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            choice = {"message": {"content": said.words}, "finish_reason": said.reason}
            sent = json.dumps({"choices": [choice]}).encode() if said.status == 200 else b"no, because"
            self.send_response(said.status)
            self.send_header("Content-Length", str(len(sent) + said.missing))
            if said.retry_after:
                self.send_header("Retry-After", said.retry_after)
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
