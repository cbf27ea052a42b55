"""What miniupnpd is told, and the table that it fills in."""

from __future__ import annotations

import re
from ipaddress import IPv4Address

from lab.nat.upnp import CLEAR, TABLE, configuration

EXTERNAL = IPv4Address("128.66.0.1")


def settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_the_table_loads_again_over_an_old_one() -> None:
    assert TABLE.splitlines()[:3] == ["table inet upnp", "delete table inet upnp", "table inet upnp {"]


def test_what_comes_in_is_asked_before_the_nat_and_what_goes_out_never() -> None:
    assert "priority dstnat - 1" in TABLE
    assert re.findall(r"jump (\w+)", TABLE) == ["miniupnpd", "prerouting_miniupnpd"]


def test_miniupnpd_is_told_of_chains_that_there_are() -> None:
    told = settings(configuration("home-nat", EXTERNAL))
    chains = {told[f"upnp_{name}_chain"] for name in ("forward", "nat", "nat_postrouting")}
    assert chains == set(re.findall(r"chain (\w*miniupnpd) {", TABLE))
    assert {told["upnp_table_name"], told["upnp_nat_table_name"]} == {"upnp"}
    assert {line.split()[-1] for line in CLEAR.splitlines()} == chains


def test_the_configuration_is_that_of_one_nat() -> None:
    home = settings(configuration("home-nat", EXTERNAL))
    assert home["ext_ip"] == "128.66.0.1"
    assert home["friendly_name"] == "home-nat"
    assert home == settings(configuration("home-nat", EXTERNAL))
    assert home["uuid"] != settings(configuration("away-nat", EXTERNAL))["uuid"]


def test_hosts_open_unprivileged_ports_to_themselves_and_leases_are_not_kept() -> None:
    text = configuration("home-nat", EXTERNAL)
    assert text.splitlines()[-2:] == ["allow 1024-65535 0.0.0.0/0 1024-65535", "deny 0-65535 0.0.0.0/0 0-65535"]
    assert settings(text)["secure_mode"] == "yes"
    assert "lease_file" not in text
