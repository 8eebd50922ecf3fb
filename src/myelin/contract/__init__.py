"""What the parties agree on, and what keeps them to it: contracts, sealed data, key brokers, budget ledgers.

The owner's and the researcher's side. Time is an argument everywhere; a skipped check is a failed check;
nothing that a host or a stranger sent is believed before its size, form and signature were checked.
"""

from myelin.contract.agreement import (
    ANCHORS,
    CONTRACT_TYPE,
    MOST_CONTRACT_BYTES,
    Budget,
    Contract,
    Dataset,
    Party,
    SignedContract,
)
from myelin.contract.anchor import Anchor, Head, Occasion, rolled_back
from myelin.contract.broker import Anchors, Broker, DataKeys, Observe
from myelin.contract.budgets import BudgetFigure, budget_figures, check_budgets
from myelin.contract.dataset import (
    CHUNK_BYTES,
    DatasetHeader,
    SealedDataset,
    open_dataset,
    read_dataset_header,
    seal_dataset,
    sealed_dataset,
)
from myelin.contract.deposit import DEPOSIT_TYPE, RECEIPT_TYPE
from myelin.contract.draft import Draft, draft_contract
from myelin.contract.event import Accountant, DpEvent, default_accountant, epsilon_of
from myelin.contract.files import read_bounded, replacing, sync_directory, write_new, write_whole
from myelin.contract.image_facts import ImageFacts, read_image_facts
from myelin.contract.keys import Identity, PublicIdentity
from myelin.contract.ledger import Answer, Debit, Ledger, Reservation, Share
from myelin.contract.limits import REVOCABLE, Quota, quotas
from myelin.contract.medium import STORE_VERSION, HeadRow, Line, Medium, SqliteMedium
from myelin.contract.nonces import Nonces
from myelin.contract.records import Records, read_records
from myelin.contract.schema import Column, DataSchema, Label, NumericLabel
from myelin.contract.sealing import seal
from myelin.contract.server import BrokerServer
from myelin.contract.store import Entry, Store
from myelin.contract.surroundings import Disk, Files, Surroundings
from myelin.contract.transport import Asked, Connect, Transport, ask, connect_to
from myelin.contract.witness import (
    MOST_STATEMENT_BYTES,
    Statement,
    acknowledge,
    check_acknowledgement,
    follow,
)
from myelin.contract.zcdp import epsilon_of_zcdp, micro_zcdp
from myelin.wire import boot_id

__all__ = [
    "ANCHORS",
    "CHUNK_BYTES",
    "CONTRACT_TYPE",
    "DEPOSIT_TYPE",
    "MOST_CONTRACT_BYTES",
    "MOST_STATEMENT_BYTES",
    "RECEIPT_TYPE",
    "REVOCABLE",
    "STORE_VERSION",
    "Accountant",
    "Anchor",
    "Anchors",
    "Answer",
    "Asked",
    "Broker",
    "BrokerServer",
    "Budget",
    "BudgetFigure",
    "Column",
    "Connect",
    "Contract",
    "DataKeys",
    "DataSchema",
    "Dataset",
    "DatasetHeader",
    "Debit",
    "Disk",
    "DpEvent",
    "Draft",
    "Entry",
    "Files",
    "Head",
    "HeadRow",
    "Identity",
    "ImageFacts",
    "Label",
    "Ledger",
    "Line",
    "Medium",
    "Nonces",
    "NumericLabel",
    "Observe",
    "Occasion",
    "Party",
    "PublicIdentity",
    "Quota",
    "Records",
    "Reservation",
    "SealedDataset",
    "Share",
    "SignedContract",
    "SqliteMedium",
    "Statement",
    "Store",
    "Surroundings",
    "Transport",
    "acknowledge",
    "ask",
    "boot_id",
    "budget_figures",
    "check_acknowledgement",
    "check_budgets",
    "connect_to",
    "default_accountant",
    "draft_contract",
    "epsilon_of",
    "epsilon_of_zcdp",
    "follow",
    "micro_zcdp",
    "open_dataset",
    "quotas",
    "read_bounded",
    "read_dataset_header",
    "read_image_facts",
    "read_records",
    "replacing",
    "rolled_back",
    "seal",
    "seal_dataset",
    "sealed_dataset",
    "sync_directory",
    "write_new",
    "write_whole",
]
