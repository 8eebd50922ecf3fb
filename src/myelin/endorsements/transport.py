"""One bounded request to a vendor's service: size, time and attempts have limits, and nobody is followed.

Everything that comes back is a stranger's bytes. TLS keeps passers-by from reading which machine is asked
about; trust comes later, from the vendors' signatures, in :mod:`myelin.attest`.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from myelin.errors import InputError

__all__ = ["Answer", "Request", "Transport"]

_CHUNK_BYTES = 64 << 10
_MOST_REDIRECTS = 3
_MOST_WAIT_S = 30.0
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_MOVED = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class Request:
    """What to ask: a GET, or a POST of ``body``. ``signed`` says that the answer's own signature protects it,
    so that an address that its vendor gives without TLS is allowed."""

    url: str
    body: bytes | None = None
    content_type: str = ""
    most_bytes: int = 1 << 20
    signed: bool = False


@dataclass(frozen=True)
class Answer:
    """A successful answer: its headers, by their names in lower case, and its body."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Transport:
    """How to ask. ``timeout_s`` is for one whole attempt, of which there are at most ``attempts``.

    ``tls`` are the settings for TLS: those of the system by default; a caching service of one's own may have
    a certificate of one's own. ``sleep`` and ``clock`` are for tests.
    """

    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    timeout_s: float = 20.0
    attempts: int = 4
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def ask(self, request: Request) -> Answer:
        """Ask until there is an answer; :class:`~myelin.errors.InputError` says which address failed and why.

        What may pass (no connection, 408, 429, 5xx) is tried again, after a wait that doubles or that the
        service asks for; what will not is not.
        """
        problem = ""
        for attempt in range(self.attempts):
            try:
                status, answer, wait = self._follow(request)
            except (OSError, http.client.HTTPException) as error:
                problem, wait = _said(error), ""
            else:
                if status == 200:
                    return answer
                problem = f"the service answers {status}"
                if status not in _AGAIN:
                    break
            if attempt + 1 < self.attempts:
                self.sleep(_wait_s(wait, attempt))
        raise InputError(
            f"{request.url}: {problem}; endorsements are fetched over the network, and judged without it: "
            "fetch them where there is one, and pass the files on"
        )

    def _follow(self, request: Request) -> tuple[int, Answer, str]:
        """One attempt, along redirects within the same host."""
        url, deadline = request.url, self.clock() + self.timeout_s
        for _ in range(_MOST_REDIRECTS + 1):
            status, answer, wait = self._once(request, url, deadline)
            if status not in _MOVED or request.body is not None:
                return status, answer, wait
            target = urljoin(url, answer.headers.get("location", ""))
            if _origin(target) != _origin(url):
                raise InputError(
                    f"{request.url}: expected an answer, got a redirect to another host: {target[:200]}"
                )
            url = target
        raise InputError(f"{request.url}: expected an answer, got more than {_MOST_REDIRECTS} redirects")

    def _once(self, request: Request, url: str, deadline: float) -> tuple[int, Answer, str]:
        connection = self._connection(request, url)
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"Accept-Encoding": "identity", "User-Agent": "myelin"}
        if request.content_type:
            headers["Content-Type"] = request.content_type
        try:
            connection.request("GET" if request.body is None else "POST", target, request.body, headers)
            response = connection.getresponse()
            body = self._bounded(response, request, deadline)
            found = {name.lower(): value for name, value in response.getheaders()}
            return response.status, Answer(found, body), found.get("retry-after", "")
        finally:
            connection.close()

    def _connection(self, request: Request, url: str) -> http.client.HTTPConnection:
        parts = urlsplit(url)
        host = parts.hostname
        if parts.scheme not in ("https", "http") or not host or parts.username is not None:
            raise InputError(f"{url}: expected the address of a service, https://HOST/…")
        if parts.scheme == "http":
            if not request.signed:
                raise InputError(f"{url}: expected https; without it anybody between sees what is asked")
            return http.client.HTTPConnection(host, parts.port, timeout=self.timeout_s)
        return http.client.HTTPSConnection(host, parts.port, timeout=self.timeout_s, context=self.tls)

    def _bounded(self, response: http.client.HTTPResponse, request: Request, deadline: float) -> bytes:
        """The body, if it is not too long and does not take too long, however it trickles."""
        most = request.most_bytes
        if response.length is not None and response.length > most:
            raise InputError(f"{request.url}: expected at most {most} bytes, got {response.length}")
        body = bytearray()
        while chunk := response.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > most:
                raise InputError(f"{request.url}: expected at most {most} bytes, got more")
            if self.clock() > deadline:
                raise TimeoutError(f"no whole answer within {self.timeout_s:g} s")
        if response.length:
            raise http.client.IncompleteRead(bytes(body), response.length)
        return bytes(body)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _wait_s(asked: str, attempt: int) -> float:
    """How long to wait before the next attempt: what the service asks for, within reason, or 1, 2, 4 … s."""
    wished = float(asked) if asked.isascii() and asked.isdigit() and len(asked) < 9 else 2.0**attempt
    return min(wished, _MOST_WAIT_S)


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its TLS certificate is not trusted: {error.verify_message}"
    if isinstance(error, http.client.IncompleteRead):
        return f"the answer ended {error.expected} bytes early"
    return str(error)[:200] or type(error).__name__
