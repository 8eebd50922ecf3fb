"""Keys from Trustee's KBS, against a stand-in over HTTP that follows the protocol's document, and hostile
ones."""

import base64
import hashlib
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from myelin.broker.trustee import TrusteeKeys, call_http, open_jwe
from myelin.errors import InputError, ProtocolError
from reference_enclave import ReferenceEnclave, make_agreement


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def jwe_to(jwk, plain, **changes):
    """RFC 7516, flattened; RFC 7518 section 4.6: what a KBS answers with."""
    point = ec.EllipticCurvePublicNumbers(
        *(int.from_bytes(unb64(jwk[n]), "big") for n in "xy"), ec.SECP256R1()
    ).public_key()
    ours = ec.generate_private_key(ec.SECP256R1())
    numbers = ours.public_key().public_numbers()
    epk = {"kty": "EC", "crv": "P-256"} | {n: b64(getattr(numbers, n).to_bytes(32, "big")) for n in "xy"}
    header = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "epk": epk} | changes
    protected = b64(json.dumps(header).encode())
    name = b"ECDH-ES+A256KW"
    info = len(name).to_bytes(4, "big") + name + bytes(8) + (256).to_bytes(4, "big")
    wrapping = ConcatKDFHash(hashes.SHA256(), 32, info).derive(ours.exchange(ec.ECDH(), point))
    key, iv = secrets.token_bytes(32), secrets.token_bytes(12)
    sealed = AESGCM(key).encrypt(iv, plain, protected.encode())
    return {
        "protected": protected, "encrypted_key": b64(aes_key_wrap(wrapping, key)), "iv": b64(iv),
        "ciphertext": b64(sealed[:-16]), "tag": b64(sealed[-16:]),
    }  # fmt: skip


class StandIn(ThreadingHTTPServer):
    """A KBS: sessions by cookie, a nonce each, evidence of the kind `sample`, resources by path."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.sessions, self.resources, self.asked = {}, {}, []
        self.trusts = True


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *given):
        pass

    def reply(self, status, value, cookie=None):
        body = json.dumps(value).encode()
        self.send_response(status)
        if cookie:
            self.send_header("Set-Cookie", f"kbs-session-id={cookie}; Path=/")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def session(self):
        return self.server.sessions.get((self.headers.get("Cookie") or "").removeprefix("kbs-session-id="))

    def do_POST(self):
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(self.path)
        if self.path == "/kbs/v0/auth":
            assert set(said) == {"version", "tee", "extra-params"} and said["tee"] == "sample"
            session, nonce = secrets.token_hex(16), secrets.token_urlsafe(32)
            self.server.sessions[session] = {"nonce": nonce}
            return self.reply(200, {"nonce": nonce, "extra-params": ""}, session)
        assert self.path == "/kbs/v0/attest"
        session = self.session()
        runtime = said["runtime-data"]
        canonical = json.dumps(runtime, sort_keys=True, separators=(",", ":")).encode()
        bound = b64(hashlib.sha384(canonical).digest())
        evidence = said["tee-evidence"]["primary_evidence"]
        if session is None or runtime["nonce"] != session["nonce"] or evidence["report_data"] != bound:
            return self.reply(401, {"type": "attestation"})
        if not self.server.trusts:
            return self.reply(401, {"type": "policy"})
        session |= {"jwk": runtime["tee-pubkey"], "token": "a.b." + secrets.token_hex(8)}
        return self.reply(200, {"token": session["token"]})

    def do_GET(self):
        self.server.asked.append(self.path)
        session = self.session()
        if session is None or self.headers.get("Authorization") != f"Bearer {session.get('token')}":
            return self.reply(401, {})
        if self.path not in self.server.resources:
            return self.reply(404, {})
        return self.reply(200, jwe_to(session["jwk"], self.server.resources[self.path]))


@pytest.fixture
def kbs():
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def keys_of(kbs, attest=lambda digest: {"report_data": b64(digest)}):
    return TrusteeKeys(
        call_http(f"http://127.0.0.1:{kbs.server_port}"), attest, "sample", "hospital/data-key"
    )


def test_a_release_with_a_key_from_trustee(tmp_path, kbs):
    agreement = make_agreement(tmp_path)
    owner, enclave = agreement.owners[0], ReferenceEnclave(agreement.signed)
    kbs.resources[f"/kbs/v0/resource/hospital/data-key/{owner.digest.hex()}"] = b"\7" * 32
    owner.restart(data_keys=keys_of(kbs))
    assert enclave.accept(owner.ask(enclave.request(owner)))["data_key"] == b"\7" * 32
    assert kbs.asked[:3] == [
        "/kbs/v0/auth", "/kbs/v0/attest", f"/kbs/v0/resource/hospital/data-key/{owner.digest.hex()}"
    ]  # fmt: skip
    assert owner.debits() == 1


@pytest.mark.parametrize(("change", "name"), [("policy", "key_unavailable"), ("resource", "dataset_unknown")])
def test_trustee_refuses_and_nothing_is_debited(tmp_path, kbs, change, name):
    agreement = make_agreement(tmp_path)
    owner = agreement.owners[0]
    kbs.trusts = change != "policy"
    owner.restart(data_keys=keys_of(kbs))
    with pytest.raises(ProtocolError) as caught:
        owner.ask(ReferenceEnclave(agreement.signed).request(owner))
    assert (caught.value.name, owner.debits()) == (name, 0)


def test_trustee_is_down(tmp_path):
    agreement = make_agreement(tmp_path)
    owner = agreement.owners[0]
    owner.restart(data_keys=TrusteeKeys(call_http("http://127.0.0.1:1"), lambda digest: {}, "sample", "a/b"))
    with pytest.raises(ProtocolError, match=r"key_unavailable.*does not answer"):
        owner.ask(ReferenceEnclave(agreement.signed).request(owner))
    assert owner.debits() == 0


def test_evidence_that_is_not_bound_to_this_handshake(kbs):
    kbs.resources["/kbs/v0/resource/hospital/data-key/" + "00" * 32] = bytes(32)
    with pytest.raises(ProtocolError, match="does not trust"):
        keys_of(kbs, lambda digest: {"report_data": b64(bytes(48))})(bytes(32))
    kbs.resources["/kbs/v0/resource/hospital/data-key/" + "00" * 32] = bytes(31)
    with pytest.raises(ProtocolError, match="31 bytes"):
        keys_of(kbs)(bytes(32))


@pytest.mark.parametrize(
    "answers",
    [
        [(500, {}, b"")],
        [(200, {}, b"{}")],
        [(200, {"set-cookie": "kbs-session-id=x"}, b"[]")],
        [(200, {"set-cookie": "kbs-session-id=x"}, b"{" * 100_000)],
        [(200, {"set-cookie": "\0="}, b'{"nonce": "n"}')],
        [(200, {"set-cookie": "kbs-session-id=x"}, b'{"nonce": "n"}'), (200, {}, b'{"token": 5}')],
        [(200, {}, bytes(1 << 20))],
    ],
)
def test_a_kbs_that_answers_nonsense(answers):
    left = iter(answers)
    keys = TrusteeKeys(lambda *given: next(left), lambda digest: {}, "sample", "a/b")
    with pytest.raises(ProtocolError, match="key_unavailable"):
        keys(bytes(32))


def test_jwes_that_do_not_open():
    private = ec.generate_private_key(ec.SECP256R1())
    numbers = private.public_key().public_numbers()
    jwk = {n: b64(getattr(numbers, n).to_bytes(32, "big")) for n in "xy"}
    good = jwe_to(jwk, b"key")
    assert open_jwe(good, private) == b"key"
    for field in good:
        for wrong in ("", "!", "AAAA", 5, None, good[field][:-4] + "AAAA"):
            if wrong != good[field]:
                with pytest.raises(ProtocolError, match="key_unavailable"):
                    open_jwe({**good, field: wrong}, private)
    for change in (
        {"alg": "dir"},
        {"enc": "A128CBC-HS256"},
        {"crit": ["exp"]},
        {"epk": {}},
        {"epk": {"kty": "EC"}},
    ):
        with pytest.raises(ProtocolError, match="key_unavailable"):
            open_jwe(jwe_to(jwk, b"key", **change), private)
    with pytest.raises(ProtocolError, match="key_unavailable"):
        open_jwe({**good, "aad": "AAAA"}, private)
    with pytest.raises(ProtocolError, match="key_unavailable"):
        open_jwe(good, ec.generate_private_key(ec.SECP256R1()))


def test_addresses_and_resources_out_of_form():
    for address in ("ftp://x", "http://example.org", "https://", "https://x/path"):
        with pytest.raises(InputError, match="Trustee"):
            call_http(address)
    for resources in ("", "a", "a/b/c", "../x", "a/b?c"):
        with pytest.raises(InputError, match="Trustee resources"):
            TrusteeKeys(call_http("https://x"), lambda d: {}, "sample", resources)
