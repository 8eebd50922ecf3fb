"""SGX and TDX quotes with their collateral, under an Intel-shaped root of the tests' own."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from myelin.attest.roots import Roots
from vendors import der
from vendors.authority import Holder, authority_extensions, issue

NOW_S = 1_790_000_000
SGX = "1.2.840.113741.1.13.1"
VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
FMSPC, PPID, QE_SIGNER = bytes.fromhex("00a067110000"), bytes(range(16)), b"q" * 32
SGX_GOOD, TDX_GOOD = 0x5, 1 << 28
DAY_S = 86_400


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def root() -> Holder:
    return issue("Intel SGX Root CA", key("root"), None, authority_extensions(1))


def roots() -> Roots:
    return Roots((root().pinned("intel"),))


@cache
def signer() -> Holder:
    usage = {"2.5.29.15": (True, der.bits(b"\xc0", 6))}
    return issue("Intel SGX TCB Signing", key("signer"), root(), usage, serial=2)


@cache
def platform_ca() -> Holder:
    return issue("Intel SGX PCK Platform CA", key("platform ca"), root(), authority_extensions(0), serial=3)


def raw_signature(signing: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(signing.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def raw_public(signing: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = signing.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def rfc3339(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class IntelPlatform:
    """One platform, its collateral, and quotes of every kind."""

    status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    smt: bool = False
    dynamic: bool = False
    cached: bool = False
    svn: int = 5
    least_svn: int = 5
    issued_s: int = NOW_S - DAY_S
    until_s: int = NOW_S + 29 * DAY_S
    revoked: tuple[int, ...] = ()
    attestation_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def pck(self) -> Holder:
        """The certificate of the platform's key, with Intel's extension."""

        def entry(suffix: str, value: bytes) -> bytes:
            return der.sequence(der.oid(SGX + suffix), value)

        components = [entry(f".2.{place}", der.integer(self.svn)) for place in range(1, 17)]
        versions = [entry(".2.17", der.integer(11)), entry(".2.18", der.octets(bytes([self.svn]) * 16))]
        configuration = [
            entry(f".7.{place}", der.boolean(flag))
            for place, flag in enumerate((self.dynamic, self.cached, self.smt), 1)
        ]
        extension = der.sequence(
            entry(".1", der.octets(PPID)),
            entry(".2", der.sequence(*components, *versions)),
            entry(".3", der.octets(b"\0\0")),
            entry(".4", der.octets(FMSPC)),
            entry(".5", der.tlv(0x0A, b"\x01")),
            entry(".6", der.octets(bytes(16))),
            entry(".7", der.sequence(*configuration)),
        )
        usage = {"2.5.29.15": (True, der.bits(b"\xc0", 6)), SGX: (False, extension)}
        return issue("Intel SGX PCK Certificate", key("pck"), platform_ca(), usage, serial=4)

    def collateral(self, kind: str) -> bytes:
        """Collateral for ``sgx`` or ``tdx``, as JSON."""
        tcb_info = json.dumps(self._tcb_info(kind), separators=(",", ":"))
        identity = json.dumps(self._identity(kind), separators=(",", ":"))
        chain = (signer().pem() + root().pem()).decode()
        return json.dumps(
            {
                "pck_crl_issuer_chain": (platform_ca().pem() + root().pem()).decode(),
                "root_ca_crl": self._crl(root(), NOW_S - 200 * DAY_S, NOW_S + 160 * DAY_S, ()).hex(),
                "pck_crl": self._crl(platform_ca(), self.issued_s, self.until_s, self.revoked).hex(),
                "tcb_info_issuer_chain": chain,
                "tcb_info": tcb_info,
                "tcb_info_signature": raw_signature(signer().key, tcb_info.encode()).hex(),
                "qe_identity_issuer_chain": chain,
                "qe_identity": identity,
                "qe_identity_signature": raw_signature(signer().key, identity.encode()).hex(),
            }
        ).encode()

    def _tcb_info(self, kind: str) -> dict[str, object]:
        components = [{"svn": self.least_svn}] * 16
        levels = {"sgxtcbcomponents": components, "pcesvn": 11}
        value: dict[str, object] = {
            "id": kind.upper(),
            "version": 3,
            "issueDate": rfc3339(self.issued_s),
            "nextUpdate": rfc3339(self.until_s),
            "fmspc": FMSPC.hex().upper(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 20,
        }
        if kind == "tdx":
            levels["tdxtcbcomponents"] = [{"svn": 3}] + [{"svn": 0}] * 15
            value["tdxModule"] = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "ff" * 8}
        value["tcbLevels"] = [
            {
                "tcb": levels,
                "tcbDate": "2026-01-01T00:00:00Z",
                "tcbStatus": self.status,
                "advisoryIDs": list(self.advisories),
            }
        ]
        return value

    def _identity(self, kind: str) -> dict[str, object]:
        return {
            "id": "QE" if kind == "sgx" else "TD_QE",
            "version": 2,
            "issueDate": rfc3339(self.issued_s),
            "nextUpdate": rfc3339(self.until_s),
            "tcbEvaluationDataNumber": 20,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11" + "00" * 15,
            "attributesMask": "FB" + "FF" * 7 + "00" * 8,
            "mrsigner": QE_SIGNER.hex(),
            "isvprodid": 1,
            "tcbLevels": [{"tcb": {"isvsvn": 8}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": "UpToDate"}],
        }

    def _crl(self, issuer: Holder, issued_s: int, until_s: int, revoked: tuple[int, ...]) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer.common_name)]))
            .last_update(datetime.fromtimestamp(issued_s, timezone.utc))
            .next_update(datetime.fromtimestamp(until_s, timezone.utc))
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False
            )
        )
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial)
            builder = builder.add_revoked_certificate(
                entry.revocation_date(datetime.fromtimestamp(issued_s, timezone.utc)).build()
            )
        return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def sgx_quote(
        self,
        *,
        attributes: int = SGX_GOOD,
        mrenclave: bytes = b"e" * 32,
        report_data: bytes = bytes(range(64)),
        svn: int = 3,
    ) -> bytes:
        """An SGX quote of version 3."""
        return self._quote(3, 0, b"", _enclave_report(attributes, mrenclave, b"s" * 32, 2, svn, report_data))

    def sgx_quote_of(self, body: bytes) -> bytes:
        """An SGX quote of a report's body, as a quoting enclave makes it."""
        return self._quote(3, 0, b"", body)

    def tdx_quote(
        self,
        *,
        version: int = 4,
        body_type: int = 2,
        attributes: int = TDX_GOOD,
        registers: bytes = b"r" * 48,
        rtmrs: tuple[bytes, ...] = (b"0" * 48, b"1" * 48, b"2" * 48, b"3" * 48),
        report_data: bytes = bytes(range(64)),
        service_td: bytes = bytes(48),
    ) -> bytes:
        """A TDX quote of version 4, or of 5 with a TD report 1.0 (``body_type`` 2) or 1.5 (3)."""
        tcb_svn = bytes([3]) + bytes(15)
        body = b"".join(
            (
                tcb_svn, b"m" * 48, bytes(48), bytes(8), struct.pack("<Q", attributes), b"\xe7" + bytes(7),
                registers, bytes(48 * 3), *rtmrs, report_data,
            )
        )  # fmt: skip
        if body_type == 3:
            body += tcb_svn + service_td
        head = struct.pack("<HI", body_type, len(body)) if version == 5 else b""
        return self._quote(version, 0x81, head, body)

    def _quote(self, version: int, tee: int, head: bytes, body: bytes) -> bytes:
        header = struct.pack("<HHIHH16s20s", version, 2, tee, 0, 0, VENDOR, bytes(20))
        auth = bytes(range(32))
        bound = hashlib.sha256(raw_public(self.attestation_key) + auth).digest() + bytes(32)
        enclave = _enclave_report(0x11, b"Q" * 32, QE_SIGNER, 1, 8, bound)
        chain = self.pck().pem() + platform_ca().pem() + root().pem()
        certified = enclave + raw_signature(key("pck"), enclave)
        certified += struct.pack("<H", len(auth)) + auth + struct.pack("<HI", 5, len(chain)) + chain
        if version >= 4:
            certified = struct.pack("<HI", 6, len(certified)) + certified
        signed = header + head + body
        data = raw_signature(self.attestation_key, signed) + raw_public(self.attestation_key) + certified
        return signed + struct.pack("<I", len(data)) + data


def _enclave_report(
    attributes: int, mrenclave: bytes, mrsigner: bytes, product: int, svn: int, report_data: bytes
) -> bytes:
    parts = (
        bytes(16), bytes(4), bytes(28), struct.pack("<QQ", attributes, 0xE7), mrenclave, bytes(32), mrsigner,
        bytes(96), struct.pack("<HH", product, svn), bytes(60), report_data,
    )  # fmt: skip
    return b"".join(parts)
