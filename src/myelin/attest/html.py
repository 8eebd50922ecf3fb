"""An attestation result as one page that needs nothing else: no script, no font, no network.

Everything that a stranger may have written is escaped, and the page's own policy (CSP) forbids all but its
own style sheet, so that a page about hostile evidence can be opened anywhere. No decision is made here.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

from myelin.attest.appraise import AttestationResult
from myelin.attest.check import Check, Verdict, utc

__all__ = ["render_html"]

_STYLE = """ body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0
1rem; color: #222;
  background: #fff; }
h1 { font-size: 1.4rem; } dl { display: grid; grid-template-columns: 7rem 1fr; gap: .1rem .8rem; margin:
.3rem 0; } dt { color: #666; } dd { margin: 0; overflow-wrap: anywhere; font-family: ui-monospace, monospace;
font-size: .85rem; } details, .check { border-left: 3px solid #ccc; margin: .35rem 0 .35rem .4rem; padding:
.1rem 0 .1rem .8rem; } summary { cursor: pointer; } .passed { border-color: #2a7d2a; } .failed {
border-color: #b3261e; } .skipped { border-color: #b07b00; } .sign { font-weight: 600; font-size: .8rem;
margin-right: .5rem; } .passed > summary .sign, .passed > .sign, p.passed { color: #2a7d2a; } .failed >
summary .sign, .failed > .sign, p.failed { color: #b3261e; } .skipped > summary .sign, .skipped > .sign {
color: #8a6000; } p.passed, p.failed { border: 2px solid; padding: .5rem .8rem; font-weight: 600; } @media
(prefers-color-scheme: dark) { body { background: #16181b; color: #ddd; } dt { color: #999; } }
"""
_SIGNS = {Verdict.PASSED: "PASS", Verdict.FAILED: "FAIL", Verdict.SKIPPED: "SKIP"}
_MOST_SHOWN = 4096


def render_html(result: AttestationResult, *, of: str) -> str:
    """Draw a result; ``of`` names what was appraised, for the title. Failed groups are open, passed
    closed."""
    allowed = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    failed = [check.name for check in result.checks.failures()]
    if result.trusted and result.simulated:
        verdict, said = (
            "failed",
            "SIMULATED: every check passed, but on a simulated enclave, which keeps no secret",
        )
    elif result.trusted:
        verdict, said = "passed", "TRUSTED: every check passed"
    else:
        verdict, said = "failed", f"NOT TRUSTED: {len(failed)} checks did not pass: {', '.join(failed)}"
    facts = {"evidence": of, "judged at": utc(result.at_s), "policy": result.policy.hex()}
    if result.measurement is not None:
        facts["image"] = result.measurement.hex()
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"style-src 'sha256-{allowed}'\">\n"
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{_text(of)}: attestation</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>Attestation</h1>\n<p class="{verdict}">{_text(said)}</p>\n{_facts(facts)}'
        f"{_tree(result.checks)}</body>\n</html>\n"
    )


def _tree(check: Check) -> str:
    verdict = Verdict.FAILED if check.verdict is Verdict.PASSED and not check.passed else check.verdict
    sign = f'<span class="sign">{_SIGNS[verdict]}</span>'
    if check.children:
        inside = "".join(_tree(child) for child in check.children)
        opened = "" if verdict is Verdict.PASSED else " open"
        head = f"<summary>{sign}<b>{_text(check.name)}</b> {_text(check.got)}</summary>"
        return f'<details class="{verdict.value}"{opened}>{head}\n{inside}</details>\n'
    facts = {"expected": check.expected, "got": check.got, "margin": check.margin, "by": check.trust_anchor}
    shown = {name: value for name, value in facts.items() if value}
    return f'<div class="check {verdict.value}">{sign}<b>{_text(check.name)}</b>\n{_facts(shown)}</div>\n'


def _facts(facts: dict[str, str]) -> str:
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items())
    return f"<dl>{rows}</dl>\n"


def _text(text: str) -> str:
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return escape(printable if len(printable) <= _MOST_SHOWN else printable[: _MOST_SHOWN - 1] + "…")
