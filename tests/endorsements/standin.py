"""A server on this machine that answers as vendors' services do, over real TLS and real sockets."""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from vendors.certificates import issue

from myelin.endorsements import Fetcher, Services, Transport


@dataclass
class Reply:
    """One answer. ``pause_s`` is waited between pieces of the body; ``length`` lies about its length."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0.0
    length: int | None = None


Route = Reply | Callable[[bytes], Reply] | list[Reply]


class StandIn:
    """Answers what tests gave it to say, by path and query; everything else is 404."""

    def __enter__(self) -> StandIn:
        self.routes: dict[str, Route] = {}
        self.asked: list[str] = []
        self.ca, tls = _certificates()
        handler = type("Handler", (_Handler,), {"standin": self})
        self.secure = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.secure.socket = tls.wrap_socket(self.secure.socket, server_side=True)
        self.plain = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        for server in (self.secure, self.plain):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self.secure, self.plain):
            server.shutdown()
            server.server_close()

    @property
    def https(self) -> str:
        return f"https://127.0.0.1:{self.secure.server_address[1]}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.plain.server_address[1]}"

    def forget(self) -> None:
        self.routes.clear()
        self.asked.clear()

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.ca.decode())

    def transport(self, **other: object) -> Transport:
        self.slept: list[float] = []
        return Transport(self.tls(), sleep=self.slept.append, **other)  # type: ignore[arg-type]

    def services(self) -> Services:
        return Services(
            intel=self.https,
            intel_root=f"{self.https}/IntelSGXRootCA.der",
            amd=self.https,
            nvidia_rim=f"{self.https}/v1/rim",
            nvidia_ocsp=f"{self.https}/ocsp",
            aws=self.http,
        )

    def fetcher(self, **other: object) -> Fetcher:
        return Fetcher(self.services(), self.transport(), **other)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    standin: StandIn

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        self.standin.asked.append(f"{self.command} {self.path}")
        route = self.standin.routes.get(self.path, Reply(status=404))
        if isinstance(route, list):
            reply = route.pop(0) if len(route) > 1 else route[0]
        else:
            reply = route if isinstance(route, Reply) else route(body)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
        self.end_headers()
        try:
            step = 1 if reply.pause_s else max(len(reply.body), 1)
            for at in range(0, len(reply.body), step):
                self.wfile.write(reply.body[at : at + step])
                self.wfile.flush()
                time.sleep(reply.pause_s)
        except OSError:
            pass  # whoever asked has heard enough

    def log_message(self, *_: object) -> None:
        pass


def _certificates() -> tuple[bytes, ssl.SSLContext]:
    """A certificate for 127.0.0.1 of an authority made for this run: the authority's PEM, and the server's
    settings."""
    life = {"begins": datetime.now(timezone.utc) - timedelta(hours=1), "valid": timedelta(days=2)}
    above = issue("authority of a stand-in", **life)  # type: ignore[arg-type]
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(above.key.public_key())
    leaf = issue("stand-in", above, authority=False, extensions=((names, False), (key_id, False)), **life)  # type: ignore[arg-type]
    key = leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "server.pem")
        path.write_bytes(leaf.pem + key)
        context.load_cert_chain(path)
    return above.pem, context
