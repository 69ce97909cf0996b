"""The JSON Schema of scenario files, for editors."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from pydantic import TypeAdapter

from attnbench.scenario.model import REQUIRED, document
from attnbench.workload import SHAPES

__all__ = ["json_schema"]


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of scenario files; docs/scenario.schema.json holds it.

    It knows each key, type, range and name; what depends on several keys (a divisor, an anchor that must be
    listed) only `attnbench plan` finds.
    """
    models: Any = [document(operation) for operation in SHAPES]
    schema = TypeAdapter(reduce(or_, models)).json_schema()
    for each in [schema, *schema.get("$defs", {}).values()]:
        if "implementations" in each.get("properties", {}):
            each["required"] = list(REQUIRED)
            each["anyOf"] = [{"required": ["matrix"]}, {"required": ["include"]}]
    tidy: dict[str, Any] = _tidy(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **tidy}


def _tidy(schema: Any) -> Any:
    """Without the titles and null defaults that pydantic makes up."""
    if isinstance(schema, list):
        return [_tidy(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {}
    for key, value in schema.items():
        if key == "properties":
            tidy[key] = {name: _tidy(each) for name, each in value.items()}
        elif not (key == "title" and "properties" not in schema) and not (key == "default" and value is None):
            tidy[key] = _tidy(value)
    return tidy
