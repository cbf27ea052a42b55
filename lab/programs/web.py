"""A native IPv6 host's web server: one page of known content, which checks fetch and verify."""

from __future__ import annotations

import hashlib
import http.server
import random
import signal
import socket
import socketserver
from functools import lru_cache
from typing import Any, Final

from lab.programs.base import Context

PAGE_BYTES: Final = 1 << 20


@lru_cache(maxsize=1)
def page() -> bytes:
    """The page: 1 MiB that no network could make up, the same on every host."""
    return random.Random("teredo-lab").randbytes(PAGE_BYTES)  # noqa: S311 - content, not a secret


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(PAGE_BYTES))
        self.send_header("X-SHA256", hashlib.sha256(page()).hexdigest())
        self.end_headers()
        self.wfile.write(page())


class _Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self) -> None:
        """Without asking a name server who we are, as the library does: in a lab none answers, which takes seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "web", self.server_address[1]


def web(options: dict[str, Any], context: Context) -> None:
    """Serve the page until SIGTERM."""
    page()
    with _Server((options["address"], options["port"]), _Handler) as server:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        context.notify("state", {"state": "running", "reason": None})
        server.serve_forever()
