"""The list of planted bugs, one part a file."""

from __future__ import annotations

from attest_bugs import ATTEST
from broker_bugs import BROKER
from bug import Bug
from compiler_bugs import COMPILER
from device_bugs import DEVICES
from enclave_bugs import ENCLAVE
from ledger_bugs import LEDGER
from mechanism_bugs import MECHANISM
from protocol_bugs import PROTOCOL
from rule_bugs import RULES
from sidechannel_bugs import SIDE_CHANNELS
from view_bugs import VIEWS

BUGS: tuple[Bug, ...] = (
    *MECHANISM,
    *COMPILER,
    *ENCLAVE,
    *PROTOCOL,
    *RULES,
    *VIEWS,
    *BROKER,
    *LEDGER,
    *ATTEST,
    *DEVICES,
    *SIDE_CHANNELS,
)
