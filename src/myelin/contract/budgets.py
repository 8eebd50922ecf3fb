"""Every owner's figures for a planned mechanism, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from myelin.contract.agreement import Contract
from myelin.contract.event import Accountant, epsilon_of
from myelin.errors import CheckError

__all__ = ["BudgetFigure", "budget_figures", "check_budgets"]


@dataclass(frozen=True)
class BudgetFigure:
    """What one run costs one owner, and what that owner agreed: ε at the owner's own δ."""

    owner: str
    delta: float
    epsilon: float
    budget: float
    within: bool

    def describe(self) -> str:
        """One line for people."""
        verdict = "within" if self.within else "EXCEEDS"
        cost = f"ε {self.epsilon:.6g} {verdict} the budget of ε {self.budget:.6g}"
        return f"{self.owner}: {cost} at δ {self.delta:.3g}"


def budget_figures(contract: Contract, accountant: Accountant) -> list[BudgetFigure]:
    """The figures of every owner, in order of party id."""
    known: dict[float, float] = {}
    figures = []
    for owner, budget in zip(contract.owners, contract.budgets, strict=True):
        if budget.delta not in known:
            known[budget.delta] = epsilon_of(
                accountant, [contract.event], budget.delta, "the contract's plan"
            )
        epsilon = known[budget.delta]
        figures.append(
            BudgetFigure(
                contract.parties[owner].name, budget.delta, epsilon, budget.epsilon, budget.allows(epsilon)
            )
        )
    return figures


def check_budgets(contract: Contract, accountant: Accountant) -> list[BudgetFigure]:
    """Raise :class:`~myelin.errors.CheckError` with every owner's figures if one budget is exceeded."""
    figures = budget_figures(contract, accountant)
    if not all(figure.within for figure in figures):
        lines = "\n".join(f"  {figure.describe()}" for figure in figures)
        raise CheckError(
            f"the plan costs more privacy than an owner allows:\n{lines}\n"
            "Use more noise, fewer steps or smaller batches, or agree on another budget."
        )
    return figures
