"""Agreement."""

from myelin.contract.agreement import Budget, Contract, Dataset, Party, SignedContract
from myelin.contract.dataset import (
    DatasetHeader,
    SealedDataset,
    open_dataset,
    read_dataset_header,
    seal_dataset,
    sealed_dataset,
)
from myelin.contract.event import DpEvent
from myelin.contract.keys import Identity, PublicIdentity
from myelin.contract.records import read_records
from myelin.contract.schema import Column, DataSchema, Label
from myelin.wire import boot_id

__all__ = [
    "Budget",
    "Column",
    "Contract",
    "DataSchema",
    "Dataset",
    "DatasetHeader",
    "DpEvent",
    "Identity",
    "Label",
    "Party",
    "PublicIdentity",
    "SealedDataset",
    "SignedContract",
    "boot_id",
    "open_dataset",
    "read_dataset_header",
    "read_records",
    "seal_dataset",
    "sealed_dataset",
]
