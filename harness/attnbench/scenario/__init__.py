"""Scenario files: which implementations are measured at which workloads, and how (docs/scenarios.md)."""

from __future__ import annotations

from attnbench.scenario.files import resolve, shipped
from attnbench.scenario.model import Check, Limits, Measure
from attnbench.scenario.scenario import Scenario, parse, read
from attnbench.scenario.schema import json_schema

__all__ = ["Check", "Limits", "Measure", "Scenario", "json_schema", "parse", "read", "resolve", "shipped"]
