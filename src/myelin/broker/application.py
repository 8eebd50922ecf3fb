"""The HTTP face of a broker or a log: ``POST /v1/VERB`` with the request's CBOR map, answered by a CBOR map.

An ASGI application over a function from frame to answer, so that a test or a simulation can drive it without
a socket. It bounds bodies before they are read, the time that a body may take, and how often a client may
ask. A refusal has the same body as over a Unix socket; the status says its kind for proxies and people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import cbor2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from myelin.broker.limits import Rates
from myelin.broker.metrics import Metrics
from myelin.contract.request import refused
from myelin.errors import ERRORS, ProtocolError
from myelin.wire import MOST_BYTES, encode

__all__ = ["CBOR", "Face", "application"]

CBOR = "application/cbor"
"""Content type of every request and answer."""

_STATUS = {
    "too_many_requests": 429,
    "oversized_message": 413,
    "unknown_message": 404,
    "anchor_unavailable": 503,
    "ledger_unwritable": 503,
    "ledger_damaged": 503,
}
"""HTTP status of some refusals; of all others 403, of what is out of form 400."""


@dataclass(frozen=True)
class Face:
    """What is behind the HTTP face.

    ``answer`` is the broker's or the log's; ``verbs`` the ones to offer. ``ready`` gives a reason not to be
    sent requests, or ``None``. ``body_timeout_s`` is the longest that a body may take to come.
    """

    answer: Callable[[bytes], bytes]
    verbs: Collection[str]
    rates: Rates
    metrics: Metrics
    ready: Callable[[], str | None] = lambda: None
    body_timeout_s: float = 20.0


def application(face: Face) -> Starlette:
    """Make the application: ``/v1/VERB``, ``/healthz``, ``/readyz``, ``/metrics``."""

    async def verb(request: Request) -> Response:
        name = request.path_params["verb"]
        try:
            if name not in face.verbs:
                raise ProtocolError.named("unknown_message", f"verb: expected one of {', '.join(face.verbs)}")
            if not face.rates.allow(request.client.host if request.client else "local"):
                face.metrics.count("limited", {})
                raise ProtocolError.named("too_many_requests", "slow down, and ask again in some seconds")
            frame = _framed(name, await _body(request, face.body_timeout_s))
        except ProtocolError as error:
            return _refusal(error)
        return _answered(await run_in_threadpool(face.answer, frame))

    async def health(request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def ready(request: Request) -> Response:
        reason = await run_in_threadpool(face.ready)
        return PlainTextResponse(f"{reason or 'ready'}\n", 503 if reason else 200)

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(face.metrics.text(), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[
            Route("/v1/{verb}", verb, methods=["POST"]),
            Route("/healthz", health, methods=["GET"]),
            Route("/readyz", ready, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
        ]
    )


async def _body(request: Request, timeout_s: float) -> bytes:
    """Read a body within its size and its time."""
    if request.headers.get("content-type") != CBOR:
        raise ProtocolError.named("malformed_message", f"Content-Type: expected {CBOR}")
    length = request.headers.get("content-length")
    if length is not None and (not length.isascii() or not length.isdigit() or int(length) > MOST_BYTES):
        raise ProtocolError.named("oversized_message", f"body: expected at most {MOST_BYTES} bytes")
    parts = bytearray()

    async def read() -> None:
        async for part in request.stream():
            parts.extend(part)
            if len(parts) > MOST_BYTES:
                raise ProtocolError.named("oversized_message", f"body: expected at most {MOST_BYTES} bytes")

    try:
        await asyncio.wait_for(read(), timeout_s)
    except asyncio.TimeoutError:
        raise ProtocolError.named(
            "malformed_message", f"body: expected whole within {timeout_s:g} s"
        ) from None
    except ClientDisconnect:
        raise ProtocolError.named("malformed_message", "body: the client went away") from None
    return bytes(parts)


def _framed(verb: str, body: bytes) -> bytes:
    """The frame of a body. The verb may be in it, but then it is the path's: no proxy is told another one."""
    try:
        fields = cbor2.loads(body)
    except (cbor2.CBORDecodeError, RecursionError, UnicodeDecodeError):
        raise ProtocolError.named("malformed_message", "body: expected a CBOR map") from None
    if not isinstance(fields, dict) or fields.get("verb", verb) != verb:
        raise ProtocolError.named("malformed_message", "body: expected a CBOR map for the verb of the path")
    return body if "verb" in fields else cbor2.dumps({**fields, "verb": verb}, canonical=True)


def _answered(answer: bytes) -> Response:
    fields: Mapping[str, object] = cbor2.loads(answer)  # our own
    if fields["ok"]:
        return Response(answer, media_type=CBOR)
    return Response(answer, _status(str(fields["name"])), media_type=CBOR)


def _refusal(error: ProtocolError) -> Response:
    return Response(encode({"ok": False, **refused(error)}), _status(error.name), media_type=CBOR)


def _status(name: str) -> int:
    kind = ERRORS.get(name)
    return _STATUS.get(name, 400 if kind is not None and kind.number < 200 else 403)
