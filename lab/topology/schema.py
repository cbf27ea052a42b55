"""The JSON Schema of topologies, for editors. `teredo-lab schema` prints it; `SCHEMA_FILE` is a copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from lab.topology.model import Topology

SCHEMA_FILE: Final = Path(__file__).with_name("schema.json")


def schema_text() -> str:
    """The schema as JSON text."""
    schema = Topology.model_json_schema()
    for definition in (schema, *schema["$defs"].values()):
        for name, option in definition.get("properties", {}).items():
            definition["properties"][name] = _or_nothing(option)
    nat = schema["$defs"]["Nat"]
    kind = nat["properties"]["kind"]
    name = {"type": "string", "enum": kind.pop("enum")}
    kind["anyOf"] = [name, {"type": "null"}]
    schema["$defs"]["Nat"] = {"anyOf": [name, nat]}  # its name alone will do
    return (
        json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2, ensure_ascii=False)
        + "\n"
    )


def _or_nothing(option: dict[str, Any]) -> dict[str, Any]:
    """An option's schema that also accepts no value, as the model does; so may each thing in a group of things."""
    things = option.get("patternProperties", {})
    for pattern, thing in things.items():
        if "$ref" in thing:
            things[pattern] = _or_nothing(thing)
    if {"type": "null"} in option.get("anyOf", ()):
        return option
    about = {key: option.pop(key) for key in tuple(option) if key in ("title", "description", "default")}
    return {**about, "anyOf": [option, {"type": "null"}]}
