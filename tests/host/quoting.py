"""What stands for Intel's quoting enclave and its service: quotes under the tests' root, by AESM's protocol.

The protocol is written down here a second time, as descriptors for Google's implementation of Protocol
Buffers, so that what the host sends is read by a reader that is not its own.
"""

from __future__ import annotations

import hashlib
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from vendors.intel import QE_SIGNER, IntelPlatform

TARGET_INFO = bytes([7] * 32) + bytes(480)
KEY = bytes(154) + (2).to_bytes(4, "little") + bytes(98)
EPID_KEY = bytes(256)
KINDS = {"uint32": 13, "uint64": 4, "bool": 8, "bytes": 12}

MESSAGES: dict[str, dict[str, dict[str, tuple[str, int]]]] = {
    "Request": {
        "initQuoteExReq": {
            "att_key_id": ("bytes", 1),
            "b_pub_key_id": ("bool", 3),
            "buf_size": ("uint64", 4),
        },
        "getQuoteSizeExReq": {"att_key_id": ("bytes", 1)},
        "getQuoteExReq": {
            "report": ("bytes", 1),
            "att_key_id": ("bytes", 2),
            "qe_report_info": ("bytes", 3),
            "buf_size": ("uint32", 4),
        },
        "getSupportedAttKeyIDNumReq": {},
        "getSupportedAttKeyIDsReq": {"buf_size": ("uint32", 1)},
    },
    "Response": {
        "initQuoteExRes": {
            "target_info": ("bytes", 2),
            "pub_key_id_size": ("uint64", 3),
            "pub_key_id": ("bytes", 4),
        },
        "getQuoteSizeExRes": {"quote_size": ("uint32", 2)},
        "getQuoteExRes": {"quote": ("bytes", 2), "qe_report_info": ("bytes", 3)},
        "getSupportedAttKeyIDNumRes": {"att_key_id_num": ("uint32", 2)},
        "getSupportedAttKeyIDsRes": {"att_key_ids": ("bytes", 2)},
    },
}
NUMBERS = {"initQuoteEx": 15, "getQuoteSizeEx": 16, "getQuoteEx": 17}
NUMBERS |= {"getSupportedAttKeyIDNum": 21, "getSupportedAttKeyIDs": 22}


def message_class(name: str) -> Any:
    """A message of AESM's protocol, with the fields that matter here."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="aesm", syntax="proto2")
    outer = file.message_type.add(name=name)
    for part, fields in MESSAGES[name].items():
        inner = outer.nested_type.add(name=part[0].upper() + part[1:])
        extra = {"timeout": ("uint32", 9)} if name == "Request" else {"errorCode": ("uint32", 1)}
        for field, (kind, number) in (extra | fields).items():
            inner.field.add(name=field, number=number, type=KINDS[kind], label=1)
        type_name = f".aesm.{name}.{inner.name}"
        outer.field.add(name=part, number=NUMBERS[part[:-3]], type=11, label=1, type_name=type_name)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"aesm.{name}"))


Request, Response = message_class("Request"), message_class("Response")


def authentication(target: bytes, body: bytes) -> bytes:
    """The code with which the stand-in's reports end."""
    code = [0x5A] * 16
    for place, byte in enumerate(target + body):
        code[place % 16] = (code[place % 16] << 1 | code[place % 16] >> 7) & 0xFF ^ byte
    return bytes(code)


class Quoting:
    """The service. ``asked`` are the names of requests so far; ``change`` may make an answer wrong."""

    def __init__(self, platform: IntelPlatform) -> None:
        self.platform = platform
        self.asked: list[str] = []
        self.change: Callable[[Any], Any] = lambda response: response

    def quote(self, report: bytes) -> bytes:
        assert report[416:] == authentication(TARGET_INFO[:32], report[:384]), "a report for somebody else"
        return self.platform.sgx_quote_of(report[:384])

    def answer(self, request: Any) -> Any:
        (part,) = (field.name for field, _ in request.ListFields())
        asked, response = getattr(request, part), Response()
        assert asked.timeout == 30_000_000
        self.asked.append(part)
        made = getattr(response, f"{part[:-3]}Res")
        made.errorCode = 0
        if part == "getSupportedAttKeyIDNumReq":
            made.att_key_id_num = 2
        elif part == "getSupportedAttKeyIDsReq":
            assert asked.buf_size == 512
            made.att_key_ids = EPID_KEY + KEY
        elif part == "initQuoteExReq":
            assert asked.att_key_id == KEY
            made.pub_key_id_size = 32
            if asked.b_pub_key_id:
                assert asked.buf_size == 32
                made.target_info, made.pub_key_id = TARGET_INFO, hashlib.sha256(QE_SIGNER).digest()
        elif part == "getQuoteSizeExReq":
            made.quote_size = 8192
        else:
            assert (asked.att_key_id, asked.buf_size) == (KEY, 8192)
            made.quote = self.quote(asked.report).ljust(8192, b"\0")
        return self.change(response)


@contextmanager
def serving(quoting: Quoting, path: Path) -> Iterator[Path]:
    """The service at a socket: one request a connection, as AESM has it."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            (size,) = struct.unpack("<I", self.rfile.read(4))
            answer = quoting.answer(Request.FromString(self.rfile.read(size)))
            data = answer if isinstance(answer, bytes) else answer.SerializeToString()
            self.wfile.write(struct.pack("<I", len(data)) + data)

    with socketserver.UnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield path
        finally:
            server.shutdown()
            thread.join()
