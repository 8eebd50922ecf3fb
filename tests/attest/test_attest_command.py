"""``myelin attest``: what it prints and exits with; files of every shape; a page that nobody can write
into."""

import json
import re
from html.parser import HTMLParser

import pytest
from vendors.intel import IntelPlatform
from vendors.snp import Machine

from myelin.attest import (
    MEDIA_TYPES,
    Check,
    Evidence,
    Policy,
    RealEvidence,
    ReferenceValues,
    Verdict,
    appraise,
    render_html,
)
from myelin.attest.appraise import AttestationResult
from myelin.cli import run
from myelin.cli.progress import console
from myelin.errors import ProtocolError

SNP, TDX, SGX = RealEvidence.SEV_SNP, RealEvidence.TDX, RealEvidence.SGX
NONCE = bytes(range(64)).hex()
AT = "2025-06-19T11:56:00Z"


def attest(*words):
    with console.capture() as capture:
        code = run(["attest", *map(str, words)])
    return code, " ".join(capture.get().split())


@pytest.fixture
def tdx(recorded, tmp_path):
    """The recorded TDX quote, its collateral, what it is bound to, and reference values for it."""
    quote = recorded("intel_tdx_quote_v4.bin")
    (tmp_path / "quote.bin").write_bytes(quote)
    (tmp_path / "collateral.json").write_bytes(recorded("intel_tdx_quote_v4.collateral.json"))
    names = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
    places = {name: 48 + 328 + 48 * place for place, name in enumerate(names)} | {"mrtd": 48 + 136}
    lines = [f'registers.{name} = "{quote[at : at + 48].hex()}"' for name, at in places.items()]
    (tmp_path / "ref.toml").write_text("\n".join(["version = 1", "[[measurements]]", 'kind = "tdx"', *lines]))
    nonce = quote[48 + 520 : 48 + 584].hex()
    words = [tmp_path / "quote.bin", "--endorsements", tmp_path / "collateral.json", "--nonce", nonce]
    return tmp_path, [*words, "--reference", tmp_path / "ref.toml", "--policy", "production"]


def test_trusted(tdx, capsys):
    folder, words = tdx
    code, said = attest(*words, "--at", AT)
    assert code == 0
    assert said == "TRUSTED every check passed"
    code, said = attest(*words, "--at", "1750334160", "--explain", "--json", "--html", folder / "page.html")
    assert code == 0
    assert "PASS TCB status: UpToDate" in said
    assert "29 days left" in said
    answer = json.loads(capsys.readouterr().out)
    assert answer["trusted"] is True
    assert answer["checks"]["passed"] is True
    assert answer["media_type"] == MEDIA_TYPES[TDX]
    assert all({"name", "trust_anchor", "expected", "got", "margin", "verdict"} <= set(c)
               for c in answer["checks"]["checks"])  # fmt: skip
    page = (folder / "page.html").read_text()
    assert "TRUSTED: every check passed" in page
    envelope = folder / "envelope.cmw"
    envelope.write_bytes(Evidence(MEDIA_TYPES[TDX], (folder / "quote.bin").read_bytes()).to_cmw())
    assert attest(envelope, *words[1:], "--kind", "tdx", "--at", AT)[0] == 0


def test_not_trusted_names_what_failed_and_by_how_much(tdx):
    _, words = tdx
    code, said = attest(*words)
    assert code == 1
    assert "FAIL collateral validity" in said
    assert re.search(r"ended \d+ days ago", said)
    assert "PASS" not in said
    code, said = attest(*words[:3], *words[5:], "--at", AT)
    assert code == 1
    assert said.endswith("NOT TRUSTED failed: report data")
    code, said = attest(*words[:4], "00" * 64, *words[5:], "--at", AT)
    assert (code, said.endswith("NOT TRUSTED failed: report data")) == (1, True)


def test_made_evidence_is_never_trusted(tmp_path):
    machine = Machine()
    (tmp_path / "report.bin").write_bytes(machine.report())
    (tmp_path / "vcek.der").write_bytes(machine.certificate())
    code, said = attest(tmp_path / "report.bin", "--endorsements", tmp_path / "vcek.der", "--nonce", NONCE,
                        "--policy", "production")  # fmt: skip
    assert code == 1
    assert "certificate chain: root" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{none}", "--policy", "production"], "cannot be read"),
        (["{text}", "--policy", "production"], "an envelope, or a known vendor's file"),
        (["{text}", "--kind", "sgx", "--policy", "production"], "quote, header"),
        (["{text}", "--kind", "simulated", "--policy", "production"], ""),
        (["{report}", "--kind", "tdx", "--policy", "production"], "quote"),
        (["{envelope}", "--kind", "tdx", "--policy", "production"], "media type"),
        (["{report}", "--policy", "strict"], "production, or a policy file"),
        (["{report}", "--policy", "{none}.toml"], "cannot be read"),
        (["{report}", "--policy", "{text}.toml"], "expected TOML"),
        (["{report}", "--policy", "production", "--nonce", "0g"], "--nonce"),
        (["{report}", "--policy", "production", "--nonce", "00"], "8 to 64 bytes"),
        (["{report}", "--policy", "production", "--nonce", "00" * 65], "8 to 64 bytes"),
        (["{report}", "--policy", "production", "--at", "yesterday"], "--at"),
        (["{report}", "--policy", "production", "--at", "2025-06-19T11:56:00"], "its zone"),
        (["{report}", "--policy", "production", "--endorsements", "{none}"], "cannot be read"),
        (["{report}", "--policy", "production", "--reference", "{text}"], "expected TOML"),
        (["{report}"], ""),
    ],
)
def test_unreadable(words, said, tmp_path):
    files = {name: tmp_path / name for name in ("none", "text", "report", "envelope")}
    files["text"].write_text("no evidence")
    (tmp_path / "text.toml").write_text("no policy")
    files["report"].write_bytes(Machine().report())
    files["envelope"].write_bytes(Evidence(MEDIA_TYPES[SNP], Machine().report()).to_cmw())
    code, got = attest(*(word.format(**files) for word in words))
    assert code == 2
    assert said in got


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["broker", "run", "--owner", "o", "--socket", "s", "--policy", "strict"], "production, or a policy"),
        (
            ["broker", "run", "--owner", "o", "--socket", "s", "--endorsements", "none"],
            "none: cannot be read",
        ),
        (["verify", "--policy", "none.toml"], "none.toml: cannot be read"),
        (["verify", "--reference", "none"], "none: cannot be read"),
        (["verify", "--endorsements", "none"], "none: cannot be read"),
    ],
)
def test_other_commands_take_the_same_files(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "certificate").write_bytes(b"none")
    with console.capture() as capture:
        code = run([*words, "certificate"] if words[0] == "verify" else words)
    assert code == 2
    assert said in " ".join(capture.get().split())


def test_the_shape_of_a_file_decides_its_kind():
    platform = IntelPlatform()
    for data, kind in (
        (platform.sgx_quote(), SGX),
        (platform.tdx_quote(), TDX),
        (platform.tdx_quote(version=5), TDX),
        (Machine().report(), SNP),
    ):
        assert Evidence.from_file(data) == Evidence(MEDIA_TYPES[kind], data)
        assert Evidence.from_file(data, kind) == Evidence(MEDIA_TYPES[kind], data)
        assert Evidence.from_file(Evidence(MEDIA_TYPES[kind], data).to_cmw()) == Evidence(
            MEDIA_TYPES[kind], data
        )
    with pytest.raises(ProtocolError, match="oversized_message"):
        Evidence.from_file(bytes(1 << 20))


def test_recorded_files_are_known_by_their_shape(recorded):
    for name, kind in (
        ("intel_sgx_quote_v3.bin", SGX),
        ("intel_tdx_quote_v4.bin", TDX),
        ("amd_snp_milan_report.bin", SNP),
        ("aws_nitro_document.bin", RealEvidence.NITRO),
        ("azure_snp_vtpm_genoa.json", RealEvidence.AZURE_SNP),
        ("nvidia_h100_report.txt", RealEvidence.NVIDIA),
    ):
        assert Evidence.from_file(recorded(name)).media_type == MEDIA_TYPES[kind], name


HOSTILE = '</dd><script>alert(1)</script><img src=x onerror="alert(1)">\x1b[2J\u202e&amp;'


def page(check, simulated=False):
    return render_html(AttestationResult(check, simulated, None, bytes(32), 0), of=HOSTILE)


def test_a_page_shows_strangers_words_as_words():
    text = page(Check(HOSTILE, HOSTILE, HOSTILE, HOSTILE, Verdict.FAILED, margin=HOSTILE))
    assert "<script" not in text
    assert "<img" not in text
    assert not {"\x1b", "\u202e"} & set(text)
    assert text.count("&lt;script&gt;") >= 5
    assert "&amp;amp;" in text


def test_a_page_needs_nothing_else():
    text = page(Check.group("all", "a", [Check.made("x", "a", "e", "g", True)]))
    assert "default-src 'none'" in text
    tags: set[str] = set()
    attributes: set[str] = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.add(tag)
            attributes.update(name for name, _ in attrs)

    Reader().feed(text)
    assert tags <= {"html", "head", "meta", "title", "style", "body", "h1", "p", "dl", "dt", "dd", "details",
                    "summary", "div", "span", "b"}  # fmt: skip
    assert attributes <= {"lang", "charset", "http-equiv", "content", "name", "class", "open"}
    assert "url(" not in text
    assert "@import" not in text


def test_a_page_says_what_the_tree_says():
    liar = Check("liar", "a", "e", "g", Verdict.PASSED, (Check.skipped("s", "a", "e", "why"),))
    text = page(liar)
    assert "NOT TRUSTED" in text
    assert 'class="failed" open' in text
    assert "SKIP" in text
    good = Check.group("all", "a", [Check.made("x", "a", "e", "g", True, margin="3 days left")])
    assert "3 days left" in page(good)
    assert 'class="passed">TRUSTED' in page(good)
    assert 'class="failed">SIMULATED' in page(good, simulated=True)


def test_the_same_tree_in_json():
    result = appraise(
        Evidence(MEDIA_TYPES[SNP], Machine().report()), (), ReferenceValues(None, ()), Policy.production(), 0
    )
    assert json.loads(json.dumps(result.to_dict()))["trusted"] is False
