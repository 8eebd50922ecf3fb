"""The demos: a whole run among processes that do not trust each other, on real data, with one command."""

from myelin.demo.digits import digits
from myelin.demo.hospitals import hospitals
from myelin.demo.scenario import Scenario, ScenarioResult, run_scenario

__all__ = ["Scenario", "ScenarioResult", "digits", "hospitals", "run_scenario"]
