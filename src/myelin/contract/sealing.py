"""What an owner does with a table: check it, seal it, and keep its key and its budget in the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from myelin.contract.agreement import Budget
from myelin.contract.dataset import SealedDataset, seal_dataset
from myelin.contract.keys import Identity
from myelin.contract.ledger import Ledger
from myelin.contract.records import Records, read_records
from myelin.contract.schema import DataSchema
from myelin.contract.store import Store
from myelin.errors import InputError

__all__ = ["seal"]


def seal(
    data: str | Path,
    schema: DataSchema,
    identity: Identity,
    out: str | Path,
    store: str | Path,
    *,
    budget: Budget | None = None,
    witness: str | Path | None = None,
    labels: str | Path | None = None,
    at_s: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SealedDataset:
    """Seal the records of ``data`` into the new file ``out`` and keep the key in the owner's ``store``.

    The store is made if it is not there; then ``budget`` (of everything ever released from it) must be given.
    If the store is there, ``budget`` must be ``None`` or the one it has. On any failure nothing is written.
    """
    store = Path(store)

    def read() -> Iterator[Records]:
        return read_records(data, schema, labels=labels)

    if not store.exists() and budget is None:
        raise InputError(
            f"{store}: no ledger there yet; give its budget (epsilon and delta), which bounds everything "
            "that is ever learnt from this owner's data"
        )
    if store.exists():
        with Store.open(store, identity, witness=witness) as existing:
            if budget is not None and budget != existing.budget:
                raise InputError(
                    f"{store}: a budget is not changed; expected the ledger's, ε {existing.budget.epsilon:g} "
                    f"at δ {existing.budget.delta:g}, got ε {budget.epsilon:g} at δ {budget.delta:g}"
                )

    def keep(sealed: SealedDataset) -> None:
        new = budget is not None and not store.exists()
        if budget is not None and new:
            opened = Store.create(store, identity, budget, at_s=at_s, witness=witness)
        else:
            opened = Store.open(store, identity, witness=witness)
        try:
            with opened:
                Ledger(opened).add_dataset(sealed, data_key, at_s=at_s)
        except BaseException:
            if new:  # holds nothing yet
                store.unlink(missing_ok=True)
            raise

    data_key = os.urandom(32)
    return seal_dataset(read, schema, out, data_key, keep=keep, progress=progress)
