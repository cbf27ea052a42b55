"""The JSON Schema: the copy that editors read is the one that the model makes, and it knows every option."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab.nat.kinds import NAMES
from lab.topology.model import Checks, Client, Expect, Host, Options, Relay, Server, Site, Topology
from lab.topology.schema import SCHEMA_FILE, schema_text

SCHEMA: dict[str, Any] = json.loads(schema_text())


def test_the_copy_is_fresh() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run: teredo-lab schema --write"


@pytest.mark.parametrize("model", [Topology, Server, Relay, Host, Site, Client, Checks, Expect])
def test_every_option_is_described_and_may_be_without_value(model: type[Options]) -> None:
    definition = SCHEMA if model is Topology else SCHEMA["$defs"][model.__name__]
    assert definition["additionalProperties"] is False
    assert definition["properties"].keys() == model.fields().keys()
    for option in definition["properties"].values():
        assert option["description"]
        assert {"type": "null"} in option["anyOf"]


@pytest.mark.parametrize(("group", "model"), [("servers", Server), ("relays", Relay), ("hosts", Host), ("sites", Site)])
def test_each_thing_of_a_group_may_be_without_options(group: str, model: type[Options]) -> None:
    things, nothing = SCHEMA["properties"][group]["anyOf"]
    assert nothing == {"type": "null"}
    assert list(things["patternProperties"].values()) == [
        {"anyOf": [{"$ref": f"#/$defs/{model.__name__}"}, {"type": "null"}]}
    ]


def test_editors_offer_the_nat_kinds() -> None:
    name, nat = SCHEMA["$defs"]["Nat"]["anyOf"]
    assert name == {"type": "string", "enum": list(NAMES)}
    assert nat["properties"]["kind"]["anyOf"] == [name, {"type": "null"}]
    assert {"mapping", "filtering", "ports", "hairpin", "engine"} <= nat["properties"].keys()
