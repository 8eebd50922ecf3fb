"""What the parties agree on, and what keeps them to it: contracts, sealed data, key brokers, budget ledgers.

The owner's and the researcher's side. Time is an argument everywhere; a skipped check is a failed check;
nothing that a host or a stranger sent is believed before its size, form and signature were checked.
"""

from myelin.contract.agreement import (
    CONTRACT_TYPE,
    MOST_CONTRACT_BYTES,
    Budget,
    Contract,
    Dataset,
    Party,
    SignedContract,
)
from myelin.contract.broker import DEPOSIT_TYPE, RECEIPT_TYPE, Broker, Nonces
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
from myelin.contract.draft import Draft, draft_contract
from myelin.contract.event import Accountant, DpEvent, default_accountant, epsilon_of
from myelin.contract.files import read_bounded, replacing, sync_directory, write_new, write_whole
from myelin.contract.image_facts import ImageFacts, read_image_facts
from myelin.contract.keys import Identity, PublicIdentity
from myelin.contract.ledger import Answer, Debit, Ledger, Share
from myelin.contract.records import Records, read_records
from myelin.contract.schema import Column, DataSchema, Label, NumericLabel
from myelin.contract.sealing import seal
from myelin.contract.server import BrokerServer
from myelin.contract.store import Entry, Store
from myelin.wire import boot_id

__all__ = [
    "CHUNK_BYTES",
    "CONTRACT_TYPE",
    "DEPOSIT_TYPE",
    "MOST_CONTRACT_BYTES",
    "RECEIPT_TYPE",
    "Accountant",
    "Answer",
    "Broker",
    "BrokerServer",
    "Budget",
    "BudgetFigure",
    "Column",
    "Contract",
    "DataSchema",
    "Dataset",
    "DatasetHeader",
    "Debit",
    "DpEvent",
    "Draft",
    "Entry",
    "Identity",
    "ImageFacts",
    "Label",
    "Ledger",
    "Nonces",
    "NumericLabel",
    "Party",
    "PublicIdentity",
    "Records",
    "SealedDataset",
    "Share",
    "SignedContract",
    "Store",
    "boot_id",
    "budget_figures",
    "check_budgets",
    "default_accountant",
    "draft_contract",
    "epsilon_of",
    "open_dataset",
    "read_bounded",
    "read_dataset_header",
    "read_image_facts",
    "read_records",
    "replacing",
    "seal",
    "seal_dataset",
    "sealed_dataset",
    "sync_directory",
    "write_new",
    "write_whole",
]
