"""A model hub on this machine, as far as an upload needs one: repositories made, files committed."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeHub:
    """What came in: repositories with what was asked for them, and their files."""

    address: str = ""
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    refuse: bool = False


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that answers on loopback until the block ends."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.tokens.add(self.headers.get("Authorization", ""))
            if hub.refuse:
                return self._send({"error": "You don't have the rights"}, 403)
            return self._send(*self._answer(body))

        def _answer(self, body: bytes) -> tuple[dict[str, Any], int]:
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                hub.made[name] = asked
                return {"url": f"{hub.address}/{name}"}, 200
            if self.path.endswith("/preupload/main"):
                paths = [file["path"] for file in json.loads(body)["files"]]
                ways = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
                return {"files": ways}, 200
            if self.path.endswith("/commit/main"):
                repository = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
                lines = [json.loads(line) for line in body.splitlines()]
                for line in lines:
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        hub.files.setdefault(repository, {})[line["value"]["path"]] = content
                return {"commitUrl": f"{hub.address}/{repository}/commit/1", "commitOid": "1", "success": True}, 200
            if self.path == "/api/validate-yaml":
                return {"errors": [], "warnings": []}, 200
            return {"error": f"no such place: {self.path}"}, 404

        def do_GET(self) -> None:
            self._send({"error": f"no such place: {self.path}"}, 404)

        def _send(self, answer: dict[str, Any], status: int) -> None:
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Nothing: the tests' output is theirs."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
