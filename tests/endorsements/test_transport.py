"""Requests to services that fail, lie, trickle and redirect; and what is kept of those that do not."""

import ssl

import pytest
from standin import Reply

from myelin.endorsements import Answer, Cache, Kept, Request, Transport
from myelin.errors import InputError


def test_an_answer_over_tls(standin):
    standin.routes["/a?b=c"] = Reply(b"body", headers={"X-Chain": "pem"})
    answer = standin.transport().ask(Request(f"{standin.https}/a?b=c"))
    assert answer.body == b"body"
    assert answer.headers["x-chain"] == "pem"


def test_a_post(standin):
    standin.routes["/ocsp"] = lambda body: Reply(body[::-1])
    answer = standin.transport().ask(Request(f"{standin.https}/ocsp", b"abc", "application/ocsp-request"))
    assert answer.body == b"cba"
    assert standin.asked == ["POST /ocsp"]


def test_what_may_pass_is_tried_again_and_waits_grow(standin):
    standin.routes["/busy"] = [
        Reply(status=503),
        Reply(status=429, headers={"Retry-After": "7"}),
        Reply(b"at last"),
    ]
    assert standin.transport().ask(Request(f"{standin.https}/busy")).body == b"at last"
    assert standin.slept == [1.0, 7.0]
    standin.routes["/down"] = Reply(status=500, headers={"Retry-After": "999999"})
    with pytest.raises(InputError, match="answers 500"):
        standin.transport().ask(Request(f"{standin.https}/down"))
    assert standin.slept == [30.0] * 3


def test_what_will_not_pass_is_asked_once(standin):
    with pytest.raises(InputError, match="answers 404"):
        standin.transport().ask(Request(f"{standin.https}/nothing"))
    assert len(standin.asked) == 1


@pytest.mark.parametrize("length", [None, 10])
def test_a_longer_answer_than_allowed(standin, length):
    """Whether the service says so beforehand or not."""
    standin.routes["/long"] = Reply(bytes(101), length=length)
    request = Request(f"{standin.https}/long", most_bytes=100 if length is None else 9)
    with pytest.raises(InputError, match="at most"):
        standin.transport().ask(request)
    assert len(standin.asked) == 1


def test_an_answer_that_ends_early(standin):
    standin.routes["/short"] = Reply(b"half", length=8)
    with pytest.raises(InputError, match="bytes early"):
        standin.transport(attempts=1).ask(Request(f"{standin.https}/short"))


def test_an_answer_that_trickles(standin):
    standin.routes["/slow"] = Reply(bytes(1000), pause_s=0.02)
    with pytest.raises(InputError, match="no whole answer within"):
        standin.transport(attempts=1, timeout_s=0.3).ask(Request(f"{standin.https}/slow"))


def test_redirects_within_a_host_are_followed_and_others_are_not(standin):
    standin.routes["/old"] = Reply(status=302, headers={"Location": "/new"})
    standin.routes["/new"] = Reply(b"here")
    assert standin.transport().ask(Request(f"{standin.https}/old")).body == b"here"
    standin.asked.clear()
    for elsewhere in (standin.http + "/new", "https://example.org/new", "file:///etc/passwd"):
        standin.routes["/old"] = Reply(status=302, headers={"Location": elsewhere})
        with pytest.raises(InputError, match="redirect to another host"):
            standin.transport().ask(Request(f"{standin.https}/old"))
    assert standin.asked == ["GET /old"] * 3
    standin.routes["/old"] = Reply(status=302, headers={"Location": "/old"})
    with pytest.raises(InputError, match="more than 3 redirects"):
        standin.transport().ask(Request(f"{standin.https}/old"))


def test_a_server_that_nobody_vouches_for(standin):
    standin.routes["/"] = Reply(b"mine")
    with pytest.raises(InputError, match="TLS certificate is not trusted"):
        Transport(ssl.create_default_context(), attempts=1).ask(Request(f"{standin.https}/"))
    assert standin.asked == []


def test_without_tls_only_what_is_signed(standin):
    standin.routes["/list"] = Reply(b"list")
    assert standin.transport().ask(Request(f"{standin.http}/list", signed=True)).body == b"list"
    with pytest.raises(InputError, match="expected https"):
        standin.transport().ask(Request(f"{standin.http}/list"))
    for url in ("ftp://127.0.0.1/", "https:///x", "https://a:b@127.0.0.1/"):
        with pytest.raises(InputError, match="the address of a service"):
            standin.transport().ask(Request(url))


def test_without_a_network_the_error_says_what_to_do(standin):
    port = standin.plain.server_address[1]
    closed = Transport(standin.tls(), attempts=2, sleep=lambda _: None)
    with pytest.raises(InputError, match="fetch them where there is one, and pass the files on"):
        closed.ask(Request(f"https://127.0.0.1:{port}/"))  # no TLS there


def test_a_cache_keeps_content_by_its_digest(tmp_path):
    cache, request = Cache(tmp_path / "c"), Request("https://a/b")
    assert cache.find(request) is None
    answer = Answer({"x-chain": "pem", "set-cookie": "no"}, b"content")
    cache.keep(request, Kept(answer, 1000), frozenset({"x-chain"}))
    kept = cache.find(request)
    assert kept == Kept(Answer({"x-chain": "pem"}, b"content"), 1000)
    assert cache.find(Request("https://a/b", b"posted")) is None
    assert [path.read_bytes() for path in (tmp_path / "c/content").iterdir()] == [b"content"]


def test_a_damaged_cache_is_an_empty_one(tmp_path):
    cache, request = Cache(tmp_path), Request("https://a/b")
    cache.keep(request, Kept(Answer({}, b"content"), 1000), frozenset())
    content = next((tmp_path / "content").iterdir())
    record = next((tmp_path / "requests").iterdir())
    whole = record.read_text()
    content.write_bytes(b"contents")
    assert cache.find(request) is None
    content.write_bytes(b"content")
    assert cache.find(request) is not None
    for text in ("", "[]", "{}", whole.replace("1000", '"now"'), whole.replace("https://a/b", "https://a/c"),
                 whole.replace('"content": "', '"content": "../')):  # fmt: skip
        record.write_text(text)
        assert cache.find(request) is None, text


def test_a_cache_in_use(standin, tmp_path):
    clock = [1_000_000.0]
    standin.routes["/x"] = [Reply(b"one"), Reply(b"two")]
    request = Request(f"{standin.https}/x")

    def ask(**other):
        return standin.fetcher(cache=Cache(tmp_path), now=lambda: clock[0], **other).ask(request)

    with pytest.raises(InputError, match=r"not to be used \(offline\)"):
        ask(offline=True)
    assert (ask().answer.body, ask().answer.body, len(standin.asked)) == (b"one", b"one", 1)
    clock[0] += 86_401
    old = ask(offline=True)
    assert (old.answer.body, old.fetched_s) == (b"one", 1_000_000)
    assert (ask().answer.body, len(standin.asked)) == (b"two", 2)
    clock[0] -= 10
    assert ask().answer.body == b"two", "what comes from the future is asked for again"
    assert len(standin.asked) == 3
