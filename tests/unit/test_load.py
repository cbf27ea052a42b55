"""The loader: what it makes of a file, and that each mistake is told with its line and a remedy."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.nat.kinds import KINDS, NAMES, PRESETS, Collision, Filtering, Mapping, NatBehaviour, Pooling, PortChoice
from lab.plan import LinkQuality
from lab.topology.load import TopologyError, load, parse
from lab.topology.model import Checks, Client, Expect, Host, Link, Nat, Relay, Server, Site, Topology
from tests.unit.helpers.topologies import errors, server_and, topology

TOPOLOGIES = Path(__file__).parents[2] / "topologies"


# What is understood


def test_one_server_is_a_lab() -> None:
    lab = topology("servers: {server: }")
    assert lab.name == "lab"
    assert lab.servers["server"].program == "teredo-lab"
    assert not lab.relays
    assert not lab.hosts
    assert not lab.sites
    assert lab.checks.pairs == "all"


def test_an_option_without_a_value_has_its_default() -> None:
    lab = topology("""
        name:
        servers:
          server:
            program:
            secrets:
        relays:
        hosts:
        sites:
          home:
            nat:
            clients:
              alice:
                refresh_interval:
        checks:
    """)
    assert lab == topology("{servers: {server: {}}, sites: {home: {clients: {alice: {}}}}}")
    assert lab.sites["home"].nat == Nat(kind="port_restricted")
    assert lab.sites["home"].behaviour == KINDS["port_restricted"]
    assert lab.sites["home"].clients["alice"].refresh_interval is None


def test_every_option_is_understood() -> None:
    lab = topology("""
        name: whole
        description: everything
        servers:
          server: {program: teredo-lab, ipv4: [192.0.2.8, 203.0.113.9], secrets: {me: "0042"}, relay: yes}
          other: {program: miredo}
        relays:
          relay: {program: miredo, ipv4: 192.0.2.77, port: 4000}
        hosts:
          web: {relay: server}
          alone: {relay: local}
        sites:
          home:
            nat: {kind: cone, udp_timeout: 3600, hairpin: yes, engine: nftables}
            external: [198.51.100.7, 198.51.100.9]
            link: {loss: 1.5%, rate: 2mbit}
            lan: 10.1.0.0/16
            clients:
              alice: {server: server, ipv4: 10.1.2.3, port: 40000, refresh_interval: 5, client_id: me, secret: 0042}
              bob: {program: miredo, server: other}
        checks:
          pairs: ring
          expect:
            - {from: alice, to: bob, is: reachable, because: hairpin}
          without: [alone]
    """)
    alice = lab.sites["home"].clients["alice"]
    assert (alice.ipv4, alice.port, alice.refresh_interval) == (IPv4Address("10.1.2.3"), 40000, 5)
    assert (alice.client_id, alice.secret) == ("me", "0042")  # text as it was written, not the number 34
    assert lab.servers["server"].secrets == {"me": "0042"}
    assert lab.servers["server"].relay is True
    assert lab.servers["server"].ipv4 == (IPv4Address("192.0.2.8"), IPv4Address("203.0.113.9"))
    assert (lab.relays["relay"].ipv4, lab.relays["relay"].port) == (IPv4Address("192.0.2.77"), 4000)
    home = lab.sites["home"]
    assert home.external == (IPv4Address("198.51.100.7"), IPv4Address("198.51.100.9"))
    assert home.behaviour == NatBehaviour(filtering=Filtering.EIF, udp_timeout=3600, hairpin=True, addresses=2)
    assert (home.nat.name, home.nat.engine) == ("cone", "nftables")
    assert home.link.quality == LinkQuality(loss=1.5, rate=2_000_000)
    assert lab.sites["home"].lan == IPv4Network("10.1.0.0/16")
    assert lab.relaying == ("relay", "server")
    expect = lab.checks.expect[0]
    assert (expect.source, expect.destination, expect.verdict, expect.because) == (
        "alice",
        "bob",
        "reachable",
        "hairpin",
    )
    assert lab.checks.without == ("alone",)


@pytest.mark.parametrize(
    ("nat", "behaviour", "name"),
    [
        ("cone", KINDS["cone"], "cone"),
        ("{kind: cone}", KINDS["cone"], "cone"),
        ("{kind: cone, udp_timeout: 9}", NatBehaviour(filtering=Filtering.EIF, udp_timeout=9), "cone"),
        ("", KINDS["port_restricted"], "port_restricted"),
        ("{}", NatBehaviour(), "EIM+APDF"),
        ("{mapping: ADM, filtering: EIF}", NatBehaviour(Mapping.ADM, Filtering.EIF), "ADM+EIF"),
        ("{ports: sequential, delta: 3}", NatBehaviour(ports=PortChoice.SEQUENTIAL, delta=3), "EIM+APDF"),
        ("{upnp: yes, udp_timeout_new: 5}", NatBehaviour(upnp=True, udp_timeout_new=5), "EIM+APDF"),
        ("{inbound_refresh: no, icmp_errors: no}", NatBehaviour(inbound_refresh=False, icmp_errors=False), "EIM+APDF"),
        ("{addresses: 3, pooling: arbitrary}", NatBehaviour(addresses=3, pooling=Pooling.ARBITRARY), "EIM+APDF"),
        ("{collision: overload}", NatBehaviour(collision=Collision.OVERLOAD), "EIM+APDF"),
        ("{udp: no}", NatBehaviour(udp=False), "no UDP"),
        ("home_router", PRESETS["home_router"], "home_router"),
        (
            "{kind: home_router, udp_timeout: 20}",
            NatBehaviour(collision=Collision.OVERLOAD, udp_timeout=20),
            "home_router",
        ),
        (
            "{kind: home_router, udp_timeout: 20, udp_timeout_new: 10}",
            NatBehaviour(collision=Collision.OVERLOAD, udp_timeout=20, udp_timeout_new=10),
            "home_router",
        ),
    ],
)
def test_what_is_said_of_a_nat(nat: str, behaviour: NatBehaviour, name: str) -> None:
    site = topology(f"{{servers: {{s: }}, sites: {{home: {{nat: {nat} }}}}}}").sites["home"]
    assert (site.behaviour, site.nat.name) == (behaviour, name)


@pytest.mark.parametrize("kind", NAMES)
def test_every_kind_may_be_named(kind: str) -> None:
    site = topology(f"{{servers: {{s: }}, sites: {{home: {{nat: {kind}}}}}}}").sites["home"]
    assert site.nat == Nat(kind=kind)
    assert site.behaviour == NAMES[kind]


def test_sites_behind_sites() -> None:
    lab = topology("{servers: {s: }, sites: {a: {behind: b}, b: {behind: c}, c: , d: {behind: b}, e: }}")
    assert {name: lab.chain(name) for name in lab.sites} == {
        "a": ("a", "b", "c"),
        "b": ("b", "c"),
        "c": ("c",),
        "d": ("d", "b", "c"),
        "e": ("e",),
    }
    assert {name: lab.nested(name) for name in lab.sites} == {"a": (), "b": ("a", "d"), "c": ("b",), "d": (), "e": ()}


def test_quotes_make_text_of_anything() -> None:
    assert topology('{description: "null", servers: {server: }}').description == "null"
    assert topology("{description: null, servers: {server: }}").description == ""


def test_yaml_words_are_good_names() -> None:
    lab = topology("{servers: {no: }, hosts: {on: , null: }}")
    assert (*lab.servers, *lab.hosts) == ("no", "on", "null")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("home.yaml", "home"),
        ("My_Lab v2.yaml", "my-lab-v2"),
        ("6081.yaml", "lab-6081"),
        ("ü.yaml", "lab"),
        ("x" * 50 + ".yaml", "x" * 31),
    ],
)
def test_the_file_names_the_lab(tmp_path: Path, file: str, name: str) -> None:
    path = tmp_path / file
    path.write_text("\ufeffservers: {server: }")
    assert load(path).name == name


def test_a_name_in_the_file_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text("{name: mine, servers: {server: }}")
    assert load(path).name == "mine"


@pytest.mark.parametrize("path", sorted(TOPOLOGIES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_topologies_that_come_with_the_lab_are_right(path: Path) -> None:
    assert load(path).description


# Files and YAML


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(TopologyError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: there is no such file; give the path of a topology"


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(TopologyError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: this is a directory; give the path of a file in it"


@pytest.mark.parametrize(
    ("path", "reason"), [("x" * 300, "File name too long"), ("a\0b", "embedded null byte")], ids=["long", "null"]
)
def test_a_path_that_cannot_be_opened(path: str, reason: str) -> None:
    with pytest.raises(TopologyError) as caught:
        load(Path(path))
    assert str(caught.value) == f"{path}: this cannot be read: {reason}; check the path"


EMPTY = "lab.yaml:1: the file is empty; begin with servers: and a server's name below it"


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "~", "--- null\n...\n"])
def test_an_empty_file(text: str) -> None:
    assert errors(text) == [EMPTY]


@pytest.mark.parametrize("text", ["\n- servers\n", "\nservers\n"])
def test_something_else_than_a_mapping(text: str) -> None:
    assert errors(text) == [
        "lab.yaml:2: a topology is a mapping of options; begin with servers: and a server's name below it"
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "servers:\n\tserver:\n",
            "lab.yaml:2: this is not YAML: found character that cannot start any token while scanning for the next"
            " token"
            " from line 2; indent with spaces, not with tabs",
        ),
        (
            "servers:\n  server: {relay: true\n\nsites:\n",
            "lab.yaml:4: this is not YAML: did not find expected ',' or '}' while parsing a flow mapping from line 2;"
            " look for a wrong indentation, a missing colon or an open quote or bracket",
        ),
        (
            "servers:\n  server:\n relays:\n",
            "lab.yaml:3: this is not YAML: did not find expected key while parsing a block mapping from line 1;"
            " look for a wrong indentation, a missing colon or an open quote or bracket",
        ),
        ("servers:\n  server: \x07\n", "lab.yaml:2: this is not YAML: it has a control character; remove it"),
        (b"servers:\n  # caf\xe9\n  server:\n", "lab.yaml:2: this is not UTF-8 text; save the file as UTF-8"),
        (
            server_and("description: *text\n"),
            "lab.yaml:3: *text is an alias, which topologies do not have; write its options out",
        ),
        (
            server_and("description: !!python/name:os.system x\n"),
            "lab.yaml:3: tag:yaml.org,2002:python/name:os.system is a tag, which topologies do not have; leave it out",
        ),
        (server_and("[name]: x\n"), "lab.yaml:3: this key is not a name; write 'name: value'"),
        (
            server_and("---\nservers: {}\n"),
            "lab.yaml:3: a second document starts here; put each topology into a file of its own",
        ),
        (
            server_and("description:\n" + " [\n" * 5_000),
            "lab.yaml:20: lists and mappings are nested too deeply; a topology needs no more than 16 levels",
        ),
    ],
)
def test_broken_yaml(text: str | bytes, error: str) -> None:
    assert errors(text) == [error]


def test_a_key_that_is_there_twice() -> None:
    assert errors(
        server_and("""\
            sites:
              home:
                nat: cone
                clients: {alice: }
                nat: bogus
              home:
                clients: {bob: {prot: 1}}
              home:
                clients: {bob: {prot: 1}}
            """)
    ) == [
        "lab.yaml:7: 'nat' is here a second time, after line 5; remove or rename one",
        "lab.yaml:8: 'home' is here a second time, after line 4; remove or rename one",
        "lab.yaml:10: 'home' is here a second time, after line 4; remove or rename one",
    ]


def test_unfolding_aliases_costs_nothing() -> None:
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 14))
    started = time.monotonic()
    assert "lab.yaml:14: *a12 is an alias, which topologies do not have; write its options out" in errors(
        f"a0: &a0 x\n{levels}\n"
    )
    assert time.monotonic() - started < 2


# Size


def long_file(lines: int) -> list[str]:
    """As many lines of sites with a client each."""
    text = ["servers:", "  server:", "checks: {pairs: ring}", "sites:"]
    for index in range((lines - len(text)) // 3):
        text += [f"  site{index}:", "    clients:", f"      client{index}:"]
    return text + ["#"] * (lines - len(text))


def test_a_file_of_ten_thousand_lines() -> None:
    text = long_file(10_000)
    started = time.monotonic()
    lab = topology("\n".join(text) + "\n")
    assert len(lab.sites) == 3332
    text[9_000] += " {server: sever}"
    assert errors("\n".join(text)) == ["lab.yaml:9001: unknown server 'sever'; did you mean 'server'? known: server"]
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("ending", ["", "\n", "\nx"])
def test_a_file_that_is_too_long(ending: str) -> None:
    text = "\n".join(long_file(10_001)) + ending
    assert errors(text) == [
        "lab.yaml:10001: too long: a topology has no more than 10,000 lines; make several topologies"
    ]


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"servers: {server: } #" + b"x" * (1 << 20))
    with pytest.raises(TopologyError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: too long: more than 1,048,576 bytes; make several topologies"


def test_a_file_that_is_wrong_everywhere() -> None:
    text = [
        "servers: {server: }",
        "hosts:",
        *(f"  host{index}x{index % 7}:" for index in range(290)),
        "checks:",
        "  expect:",
    ]
    text += [f"    - {{from: hots{index}, to: hxst{index}, is: reachable}}" for index in range(9_000)]
    started = time.monotonic()
    assert errors("\n".join(text))[0].startswith("lab.yaml:295: unknown client or host 'hots0'; did you mean")
    assert time.monotonic() - started < 60


# Anything at all


def refused_or_right(content: bytes) -> None:
    try:
        parse(content, "lab.yaml")
    except TopologyError as error:
        lines = str(error).splitlines()
        assert len(lines) == len(error.problems) > 0
        assert all(line.startswith("lab.yaml:") and (";" in line or "a client needs a site" in line) for line in lines)


@given(st.binary(max_size=300))
def test_no_bytes_break_it(content: bytes) -> None:
    refused_or_right(content)


@given(st.text(st.sampled_from("abc:- \n{}[],'\"&*!|>%@`?#~\t\x85\u2028\\<=.0123"), max_size=120))
def test_no_text_breaks_it(text: str) -> None:
    refused_or_right(text.encode())


MODELS = (Topology, Server, Relay, Host, Site, Nat, Client, Link, Checks, Expect)
KEYS = [
    *(alias for model in MODELS for alias in model.fields()),
    *("a", "b", "[key]", ""),
]
VALUES = [
    *("a", "b", "local", "miredo", "teredo-lab", "cone", "addr_symmetric", "ring", "reachable", "yes", "x;y"),
    *("cgn", "home_router", "hotel", "EIM", "ADM", "EIF", "sequential", "overload", "arbitrary", "nftables", "3", "5%"),
    *("192.0.2.4", "10.0.0.0/8", "192.168.1.2", "4000", "-1"),
]


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.sampled_from(VALUES) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
        max_leaves=40,
    )
)
def test_no_tree_breaks_it(tree: object) -> None:
    refused_or_right(yaml.safe_dump({"servers": {"a": None}, "sites": {"b": {"clients": tree}}}).encode())
    refused_or_right(yaml.safe_dump({"servers": {"a": None}, "sites": {"a": tree, "b": {"nat": tree}}}).encode())
    refused_or_right(yaml.safe_dump(tree).encode())
    if isinstance(tree, dict):
        refused_or_right(yaml.safe_dump({"servers": {"a": None}, **tree}).encode())
