"""What the loader says of each mistake in a topology that is good YAML: the line, what is wrong, and a remedy."""

from __future__ import annotations

import pytest

from tests.unit.helpers.topologies import errors, server_and, topology

# Options


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("name: x\n", "lab.yaml:1: servers is missing; it takes server names, each with its options, at least one"),
        (
            "name: x\nservers: {}\n",
            "lab.yaml:2: servers cannot be an empty mapping; it takes server names, each with its options, at least"
            " one",
        ),
        (
            "servers: [server]\n",
            "lab.yaml:1: servers cannot be a list of 1; it takes server names, each with its options, at least one",
        ),
        (
            "servers:\n  server: miredo\n",
            "lab.yaml:2: server cannot be 'miredo'; it takes options: program, ipv4, secrets, relay, link",
        ),
        (
            server_and("clients:\n  alice:\n"),
            "lab.yaml:3: a client needs a site: move it under sites: <site>: clients:",
        ),
        (
            server_and("site:\n  home:\n"),
            "lab.yaml:3: unknown option 'site'; did you mean 'sites'? known: name, description, datapath, servers,"
            " relays, hosts, sites, matrix, checks",
        ),
        (
            server_and("sites:\n  home:\n    clients:\n      alice:\n        prot: 5\n"),
            "lab.yaml:7: unknown option 'prot'; did you mean 'port'? known: program, server, ipv4, port,"
            " refresh_interval, determine_interval, local_discovery, extensions, client_id, secret, count,"
            " datapath, …",
        ),
        (
            server_and("hosts:\n  web:\n    zzz:\n"),
            "lab.yaml:5: unknown option 'zzz'; known: relay, ipv4, link",
        ),
        (
            server_and("relays:\n  Relay:\n"),
            "lab.yaml:4: 'Relay' cannot be a name; it takes a lower-case letter, then up to 30 lower-case letters,"
            " digits, hyphens",
        ),
        (
            "servers:\n  server:\n    secrets:\n      a b: x\n",
            "lab.yaml:4: 'a b' cannot be a client id; it takes 1 to 255 printable ASCII characters without spaces",
        ),
        (
            "servers:\n  server:\n    secrets:\n      me:\n",
            "lab.yaml:4: me cannot be empty; it takes client ids, each with its shared secret; if there are any, secure"
            " qualification is required",
        ),
        (
            "servers:\n  server:\n    program: mirdo\n",
            "lab.yaml:3: program cannot be 'mirdo'; it takes the program that speaks Teredo here: teredo-lab or miredo",
        ),
        (
            "servers:\n  server:\n    ipv4: 192.0.2.4\n",
            "lab.yaml:3: ipv4 cannot be '192.0.2.4'; it takes a list of two public IPv4 addresses: primary and"
            " secondary",
        ),
        (
            "servers:\n  server:\n    ipv4:\n      - 192.0.2.4\n      - 192.0.2.256\n",
            "lab.yaml:5: ipv4 cannot be '192.0.2.256'; it takes a list of two public IPv4 addresses: primary and"
            " secondary",
        ),
        (
            server_and("sites:\n  home:\n    nat:\n      udp_timeout: 3601\n"),
            "lab.yaml:6: udp_timeout cannot be '3601'; it takes seconds that an idle UDP mapping lives, 1 to 3600",
        ),
        (
            server_and("sites:\n  home:\n    nat: {udp_timeout: soon}\n"),
            "lab.yaml:5: udp_timeout cannot be 'soon'; it takes seconds that an idle UDP mapping lives, 1 to 3600",
        ),
        (
            server_and("sites:\n  home:\n    lan: 192.168.1.1/24\n"),
            "lab.yaml:5: lan cannot be '192.168.1.1/24'; it takes the prefix of the site's LAN, for example"
            " 192.168.1.0/24",
        ),
        (
            server_and("sites:\n  home:\n    external: []\n"),
            "lab.yaml:5: external cannot be a list of 0; it takes a list of the NAT's external IPv4 addresses",
        ),
        (
            server_and("sites:\n  home:\n    external: [" + ", ".join(f"198.51.100.{n}" for n in range(1, 18)) + "]\n"),
            "lab.yaml:5: external cannot be a list of 17; it takes a list of the NAT's external IPv4 addresses",
        ),
        (
            server_and("sites:\n  home:\n    external: 198.51.100.1\n"),
            "lab.yaml:5: external cannot be '198.51.100.1'; it takes a list of the NAT's external IPv4 addresses",
        ),
        (
            server_and("sites:\n  home:\n    udp_timeout: 30\n"),
            "lab.yaml:5: unknown option 'udp_timeout'; known: nat, behind, external, lan, link, clients, count",
        ),
        *(
            (
                server_and(f"sites:\n  home:\n    nat:\n      {option}: {value}\n"),
                f"lab.yaml:6: {option} cannot be '{value}'; it takes {takes}",
            )
            for option, value, takes in (
                ("filtering", "EIM", "EIF, ADF or APDF: from which remote endpoints packets come in (RFC 4787)"),
                ("ports", "kept", "preserving, random or sequential: how external ports are chosen"),
                ("delta", "0", "what is added to the last external port, for sequential ports, 1 to 16"),
                ("delta", "17", "what is added to the last external port, for sequential ports, 1 to 16"),
                (
                    "collision",
                    "share",
                    "another or overload: whether a second host that wants a port gets another or shares it",
                ),
                ("hairpin", "perhaps", "true or false: whether inside hosts reach each other by external addresses"),
                ("addresses", "0", "the number of the NAT's external addresses, 1 to 16"),
                ("addresses", "17", "the number of the NAT's external addresses, 1 to 16"),
                (
                    "pooling",
                    "any",
                    "paired or arbitrary: whether an inside host keeps to one of the external addresses",
                ),
                ("udp_timeout", "0", "seconds that an idle UDP mapping lives, 1 to 3600"),
                ("udp_timeout_new", "0", "seconds that an idle mapping lives before its first answer, 1 to 3600"),
                ("inbound_refresh", "2", "true or false: whether packets from outside prolong a mapping as well"),
                (
                    "icmp_errors",
                    "some",
                    "true or false: whether ICMP errors about mapped packets are let through, translated",
                ),
                ("upnp", "igd", "true or false: whether inside hosts may open ports by UPnP, NAT-PMP and PCP"),
                ("udp", "53", "true or false: whether UDP passes at all"),
                (
                    "engine",
                    "ebtables",
                    "iptables or nftables; by default iptables where it can do all of this exactly",
                ),
            )
        ),
        (
            server_and("sites:\n  home:\n    nat: [cone]\n"),
            "lab.yaml:5: nat cannot be a list of 1; it takes options: kind, mapping, filtering, ports, delta,"
            " collision, hairpin, addresses, pooling, udp_timeout, udp_timeout_new, inbound_refresh, icmp_errors, upnp,"
            " udp, engine",
        ),
        (
            server_and("sites:\n  home:\n    nat:\n      mapping: EIN\n"),
            "lab.yaml:6: mapping cannot be 'EIN'; it takes EIM, ADM or APDM: for which remote endpoints a mapping is"
            " kept (RFC 4787)",
        ),
        (
            server_and("sites:\n  home:\n    nat:\n      hairpinn: yes\n"),
            "lab.yaml:6: unknown option 'hairpinn'; did you mean 'hairpin'? known: kind, mapping, filtering, ports,"
            " delta, collision, hairpin, addresses, pooling, udp_timeout, udp_timeout_new, inbound_refresh, …",
        ),
        (
            server_and("sites:\n  home:\n    link: {loss: 101%}\n"),
            "lab.yaml:5: loss cannot be '101%'; it takes the percentage of packets that get lost, 0 to 100",
        ),
        (
            server_and("sites:\n  home:\n    clients:\n      alice:\n        link:\n          rate: fast\n"),
            "lab.yaml:8: rate cannot be 'fast'; it takes bits a second, such as 512kbit, 10mbit or 1gbit, from 1kbit"
            " on; 0 for no limit",
        ),
        (
            "servers:\n  server: {link: {delay: 11s}}\n",
            "lab.yaml:2: delay cannot be '11s'; it takes a time such as 50ms or 1s, up to 10s; it needs netem",
        ),
        (
            server_and("relays:\n  relay:\n    port: 80\n"),
            "lab.yaml:5: port cannot be '80'; it takes the relay's UDP port, 1024 to 65535",
        ),
        (
            server_and("checks: 5\n"),
            "lab.yaml:3: checks cannot be '5'; it takes options: pairs, expect, without",
        ),
        (
            server_and("checks:\n  expect:\n    - {from: server, is: reachable}\n"),
            "lab.yaml:5: to is missing; it takes the name of a client or host, which answers",
        ),
        (
            server_and("checks:\n  expect:\n    - alice\n"),
            "lab.yaml:5: expect cannot be 'alice'; it takes options: from, to, is, because",
        ),
        (
            server_and("checks:\n  pairs: rings\n"),
            "lab.yaml:4: pairs cannot be 'rings'; it takes all, or ring: each client to the next one, each client"
            " and the first host to each other; or matrix: each caller of the matrix to its callee",
        ),
        (
            f"name: {'x' * 100}\nservers: {{server: }}",
            f"lab.yaml:1: name cannot be '{'x' * 57}...'; it takes the lab's name, which is the file's by default: a"
            " lower-case letter, then up to 30 lower-case letters, digits or hyphens",
        ),
        (
            server_and('sites:\n  home:\n    nat: {udp_timeout: "1\\n2"}\n'),
            r"lab.yaml:5: udp_timeout cannot be '1\n2'; it takes seconds that an idle UDP mapping lives, 1 to 3600",
        ),
    ],
)
def test_wrong_options(text: str, error: str) -> None:
    assert errors(text) == [error]


# What must hold between parts

KINDS_SHOWN = (
    "cone, addr_restricted, port_restricted, upnp_port_restricted, upnp_port_symmetric, port_preserving_port_symmetric,"
    " sequential_port_symmetric, port_symmetric, addr_symmetric, home_router, cgn, office, …"
)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            server_and("relays:\n  server:\n"),
            "lab.yaml:4: two nodes are named 'server' (see line 2); rename one",
        ),
        (
            server_and("hosts:\n  home-nat:\nsites:\n  home:\n"),
            "lab.yaml:6: two nodes are named 'home-nat', as the NAT of site 'home' is (see line 4); rename one",
        ),
        (
            server_and("sites:\n  a:\n    clients:\n      alice:\n  b:\n    clients:\n      alice:\n"),
            "lab.yaml:9: two nodes are named 'alice' (see line 6); rename one",
        ),
        (
            server_and("hosts:\n  internet:\n"),
            "lab.yaml:4: 'internet' is the name of the lab's core; take another name",
        ),
        (server_and("relays:\n  local:\n"), "lab.yaml:4: 'local' means a host's own relay; take another name"),
        (
            server_and("sites:\n  home:\n    clients:\n      alice:\n        server: sever\n"),
            "lab.yaml:7: unknown server 'sever'; did you mean 'server'? known: server",
        ),
        (
            server_and("relays:\n  relay:\nhosts:\n  web:\n    relay: rely\n"),
            "lab.yaml:7: unknown relay 'rely'; did you mean 'relay'? known: relay, local",
        ),
        (
            server_and("hosts:\n  web:\n    relay: server\n"),
            "lab.yaml:5: unknown relay 'server'; known: local",
        ),
        (
            server_and("sites:\n  home:\n    nat: conee\n"),
            f"lab.yaml:5: unknown NAT kind 'conee'; did you mean 'cone'? known: {KINDS_SHOWN}",
        ),
        (
            server_and("sites:\n  home:\n    nat:\n      kind: hotell\n      udp: no\n"),
            f"lab.yaml:6: unknown NAT kind 'hotell'; did you mean 'hotel'? known: {KINDS_SHOWN}",
        ),
        (
            server_and("sites:\n  home:\n    nat:\n      kind: cone\n      mapping: ADM\n"),
            "lab.yaml:7: cone has mapping EIM, not ADM; leave out kind, or mapping",
        ),
        (
            server_and("sites:\n  home:\n    nat: {kind: cgn, filtering: APDF}\n"),
            "lab.yaml:5: cgn has filtering EIF, not APDF; leave out kind, or filtering",
        ),
        (
            server_and("sites:\n  home:\n    nat: {kind: office, mapping: EIM}\n"),
            "lab.yaml:5: office has mapping APDM, not EIM; leave out kind, or mapping",
        ),
        (
            server_and("sites:\n  home:\n    nat: {kind: port_symmetric, delta: 2}\n"),
            "lab.yaml:5: random ports have no delta; take ports: sequential",
        ),
        (
            server_and("sites:\n  home:\n    nat: {kind: sequential_port_symmetric, collision: another}\n"),
            "lab.yaml:5: sequential ports cannot collide; take ports: preserving",
        ),
        (
            server_and("sites:\n  home:\n    nat: {mapping: ADM, filtering: ADF, collision: overload}\n"),
            "lab.yaml:5: who shares a port cannot be told apart by ADM+ADF; take mapping: EIM and filtering: APDF, or"
            " collision: another",
        ),
        (
            server_and("sites:\n  home:\n    nat: {kind: home_router, udp_timeout_new: 181}\n"),
            "lab.yaml:5: a new mapping cannot live longer than an established one, 180 s; take no more than"
            " udp_timeout",
        ),
        (
            server_and("sites:\n  home:\n    nat: {addresses: 1}\n    external: [198.51.100.1, 198.51.100.2]\n"),
            "lab.yaml:6: there are 2 addresses for 1; leave out addresses, or write all of them",
        ),
        (
            server_and("sites:\n  home:\n    nat:\n      kind: addr_symmetric\n      addresses: 1\n"),
            "lab.yaml:7: addr_symmetric needs several external addresses; take two or more",
        ),
        (
            server_and("sites:\n  home:\n    nat:\n      kind: home_router\n      addresses: 2\n"),
            "lab.yaml:6: iptables cannot do this exactly: its sets know the ports of one external address only;"
            " nftables cannot do this exactly: its maps give each external port one owner, so there is no overloading;"
            " change what the NAT does",
        ),
        (
            server_and("sites:\n  home:\n    nat: {kind: cone, engine: iptables}\n    clients: {alice: , bob: }\n"),
            "lab.yaml:5: iptables cannot do this exactly: of inside hosts with one local port only the first would get"
            " EIF, since DNAT finds no other; leave out engine, or change the NAT",
        ),
        (
            server_and("sites:\n  c: {nat: {kind: cone, engine: iptables}}\n  home: {behind: c}\n"),
            "lab.yaml:4: iptables cannot do this exactly: of inside hosts with one local port only the first would get"
            " EIF, since DNAT finds no other; leave out engine, or change the NAT",
        ),
        (
            server_and("sites:\n  home:\n    nat: {kind: cone, upnp: yes}\n    external: [128.66.0.9, 203.0.113.1]\n"),
            "lab.yaml:6: miniupnpd does not take 203.0.113.1 for a public address; take one of 128.66.0.0/16",
        ),
        (
            server_and("sites:\n  home:\n    external: [192.0.2.254]\n"),
            "lab.yaml:5: 192.0.2.254 is the address of the lab's core; take another one",
        ),
        (
            server_and("sites:\n  a:\n  home:\n    behind: a\n    external:\n      - 198.51.100.9\n"),
            "lab.yaml:8: 198.51.100.9 is outside of the site's LAN; take an address of 100.64.1.0/24",
        ),
        (
            server_and("sites:\n  home:\n    external: [100.64.0.9]\n"),
            "lab.yaml:5: 100.64.0.9 is not a public address of a lab; take one of 192.0.2.0/24, 198.51.100.0/24,"
            " 203.0.113.0/24, 198.18.0.0/15, 128.66.0.0/16",
        ),
        *(
            (
                server_and(f"sites:\n  a: {{lan: 10.1.0.0/24}}\n  b:\n    behind: a\n    external: [{address}]\n"),
                f"lab.yaml:7: {address} is {what}; take another one",
            )
            for address, what in (
                ("10.1.0.1", "the network, gateway or broadcast address of 10.1.0.0/24"),
                ("10.1.0.254", "where the lab measures the NAT from"),
            )
        ),
        (
            server_and(
                "sites:\n  a:\n    clients: {alice: {ipv4: 100.64.1.254}}\n  b:\n    behind: a\n    external:"
                " [100.64.1.253]\n"
            ),
            "lab.yaml:5: 100.64.1.254 is where the lab measures the NAT from; take another one",
        ),
        (
            server_and(
                "sites:\n  a:\n    clients:\n      alice: {ipv4: 100.64.1.9}\n  b:\n    behind: a\n    external:"
                " [100.64.1.8, 100.64.1.9]\n"
            ),
            "lab.yaml:9: 100.64.1.9 is used twice (see line 6); take another one",
        ),
        (
            server_and("sites:\n  a:\n    lan: 10.0.0.0/29\n  b: {nat: cgn, behind: a}\n"),
            "lab.yaml:5: 4 addresses do not fit into 10.0.0.0/29; give the site a larger lan: 10.0.0.0/16",
        ),
        (
            server_and("sites:\n  a: {behind: b}\n  b: {behind: cc}\n"),
            "lab.yaml:5: unknown site 'cc'; known: a, b",
        ),
        (
            server_and("sites:\n  home:\n    nat:\n      kind: cone\n      filtering: ADF\n"),
            "lab.yaml:7: cone has filtering EIF, not ADF; leave out kind, or filtering",
        ),
        (
            server_and("sites:\n  home:\n    nat: {kind: port_symmetric, ports: preserving}\n"),
            "lab.yaml:5: port_symmetric has ports random, not preserving; leave out kind, or ports",
        ),
        (
            server_and("sites:\n  home:\n    nat:\n      delta: 2\n"),
            "lab.yaml:6: preserving ports have no delta; take ports: sequential",
        ),
        (
            server_and("sites:\n  home:\n    nat: {ports: random, collision: overload}\n"),
            "lab.yaml:5: random ports cannot collide; take ports: preserving",
        ),
        (
            server_and("sites:\n  home:\n    nat: {kind: cone, collision: overload}\n"),
            "lab.yaml:5: who shares a port cannot be told apart by EIM+EIF; take mapping: EIM and filtering: APDF, or"
            " collision: another",
        ),
        (
            server_and("sites:\n  home:\n    nat: {udp_timeout: 20, udp_timeout_new: 30}\n"),
            "lab.yaml:5: a new mapping cannot live longer than an established one, 20 s; take no more than udp_timeout",
        ),
        (
            server_and("sites:\n  home:\n    nat: {addresses: 3}\n    external: [198.51.100.1, 198.51.100.2]\n"),
            "lab.yaml:6: there are 2 addresses for 3; leave out addresses, or write all of them",
        ),
        (
            server_and("sites:\n  home:\n    nat: addr_symmetric\n    external: [198.51.100.1]\n"),
            "lab.yaml:6: addr_symmetric needs several external addresses; take two or more",
        ),
        (
            server_and("sites:\n  home:\n    nat:\n      mapping: ADM\n      engine: iptables\n"),
            "lab.yaml:7: iptables cannot do this exactly: conntrack maps for all remote endpoints alike or for each by"
            " itself, not by address (ADM); leave out engine, or change the NAT",
        ),
        (
            server_and("sites:\n  home:\n    nat: {kind: home_router, engine: nftables}\n"),
            "lab.yaml:5: nftables cannot do this exactly: its maps give each external port one owner, so there is no"
            " overloading; leave out engine, or change the NAT",
        ),
        (
            server_and("sites:\n  home:\n    nat: {kind: home_router, hairpin: yes}\n"),
            "lab.yaml:5: iptables cannot do this exactly: it would let hairpinned packets pass unfiltered; nftables"
            " cannot do this exactly: its maps give each external port one owner, so there is no overloading; change"
            " what the NAT does",
        ),
        (
            server_and("sites:\n  home:\n    nat: upnp_port_restricted\n    external: [198.51.100.1]\n"),
            "lab.yaml:6: miniupnpd does not take 198.51.100.1 for a public address; take one of 128.66.0.0/16",
        ),
        (
            server_and("sites:\n  a:\n  home:\n    nat: upnp_port_restricted\n    behind: a\n"),
            "lab.yaml:6: miniupnpd does not open ports of an address that is private itself; take upnp: false, or have"
            " this NAT on the Internet, or in a lan of 128.66.0.0/16 as some carriers do",
        ),
        (
            server_and("sites:\n  home:\n    behind: hone\n"),
            "lab.yaml:5: unknown site 'hone'; did you mean 'home'? known: home",
        ),
        (
            server_and("sites:\n  home:\n    behind: home\n"),
            "lab.yaml:5: this goes round: home behind home; have one of them on the Internet",
        ),
        (
            server_and("sites:\n  a:\n    lan: 10.0.0.0/8\n  b:\n    behind: a\n    lan: 10.1.0.0/16\n"),
            "lab.yaml:8: 10.1.0.0/16 overlaps with 10.0.0.0/8, the LAN of a, behind whose NAT this one's is (see line"
            " 5); take another prefix",
        ),
        (
            server_and("sites:\n  a: {lan: 10.1.0.0/24}\n  b:\n    behind: a\n    external: [10.1.0.253]\n"),
            "lab.yaml:7: 10.1.0.253 is where the lab measures the NAT from; take another one",
        ),
        (
            server_and("sites:\n  home:\n    link: {jitter: 5ms}\n"),
            "lab.yaml:5: jitter needs a delay; add delay: 50ms",
        ),
        (
            server_and("hosts:\n  web:\n    link: {delay: 5ms, jitter: 6ms}\n"),
            "lab.yaml:5: jitter cannot be more than the delay; take less",
        ),
        (
            server_and("relays:\n  relay:\n    ipv4: 8.8.8.8\n"),
            "lab.yaml:5: 8.8.8.8 is not a public address of a lab; take one of 192.0.2.0/24, 198.51.100.0/24,"
            " 203.0.113.0/24, 198.18.0.0/15, 128.66.0.0/16",
        ),
        (
            server_and("relays:\n  relay:\n    ipv4: 192.0.2.1\n"),
            "lab.yaml:5: 192.0.2.1 is the address of the lab's core; take another one",
        ),
        (
            server_and(
                "relays:\n  relay:\n    ipv4: 198.51.100.9\nsites:\n  home:\n    external:\n      - 198.51.100.9\n"
            ),
            "lab.yaml:9: 198.51.100.9 is used twice (see line 5); take another one",
        ),
        (
            "servers:\n  server:\n    ipv4: [192.0.2.4, 192.0.2.4]\n",
            "lab.yaml:3: 192.0.2.4 is used twice (see line 3); take another one",
        ),
        (
            server_and("sites:\n  home:\n    lan: 172.32.0.0/16\n"),
            "lab.yaml:5: 172.32.0.0/16 is not private (RFC 1918, RFC 6598); take a part of 192.168.0.0/16,"
            " 10.0.0.0/8, 172.16.0.0/12, 100.64.0.0/10",
        ),
        (
            server_and("sites:\n  home:\n    lan: 10.0.0.0/30\n    clients: {alice: , bob: }\n"),
            "lab.yaml:5: 10.0.0.0/30 has no room for a LAN; take a larger prefix: 192.168.1.0/24",
        ),
        (
            server_and("sites:\n  home:\n    clients:\n" + "".join(f"      c{index}:\n" for index in range(254))),
            "lab.yaml:4: 254 clients do not fit into 192.168.1.0/24; give the site a larger lan: 10.0.0.0/16",
        ),
        (
            server_and(
                "sites:\n  home:\n    lan: 10.0.0.0/8\n    clients:\n"
                + "".join(f"      c{index}:\n" for index in range(1023))
            ),
            "lab.yaml:6: 1023 clients and NATs are more than a bridge's 1022; move some to another site",
        ),
        (
            server_and("sites:\n  home:\n    clients:\n      alice:\n        ipv4: 192.168.2.9\n"),
            "lab.yaml:7: 192.168.2.9 is outside of the site's LAN; take an address of 192.168.1.0/24",
        ),
        *(
            (
                server_and(f"sites:\n  home:\n    clients:\n      alice:\n        ipv4: {address}\n"),
                f"lab.yaml:7: {address} is the network, gateway or broadcast address of 192.168.1.0/24; take another"
                " one",
            )
            for address in ("192.168.1.0", "192.168.1.1", "192.168.1.255")
        ),
        (
            server_and(
                "sites:\n  home:\n    clients:\n      alice:\n        ipv4: 192.168.1.9\n      bob:\n        ipv4:"
                " 192.168.1.9\n"
            ),
            "lab.yaml:9: 192.168.1.9 is used twice (see line 7); take another one",
        ),
        (
            server_and(
                "sites:\n  home:\n    clients:\n      alice:\n        port: 4000\n      bob:\n        port: 4000\n"
            ),
            "lab.yaml:9: two clients behind one NAT have port 4000 (see line 7); take another one",
        ),
        (
            server_and("sites:\n  home:\n    nat:\n      {kind: addr_symmetric, pooling: paired}\n"),
            "lab.yaml:6: addr_symmetric has pooling arbitrary, not paired; leave out kind, or pooling",
        ),
        (
            server_and("sites:\n  home:\n    nat: {kind: upnp_port_restricted, upnp: no}\n"),
            "lab.yaml:5: upnp_port_restricted has upnp yes, not no; leave out kind, or upnp",
        ),
        (
            server_and("matrix:\n  a: cone\n  b: conee\n"),
            f"lab.yaml:5: unknown NAT kind 'conee'; did you mean 'cone'? known: {KINDS_SHOWN}",
        ),
        (
            server_and("matrix:\n  a-name-too-long: cone\n"),
            "lab.yaml:4: 'a-name-too-long' cannot be a name; it takes a lower-case letter, then up to 11 lower-case"
            " letters, digits, hyphens",
        ),
        (
            server_and("matrix:\n  a: {kind: cone, mapping: APDM}\n"),
            "lab.yaml:4: cone has mapping EIM, not APDM; leave out kind, or mapping",
        ),
        (
            server_and("matrix:\n  a: {ports: some}\n"),
            "lab.yaml:4: ports cannot be 'some'; it takes preserving, random or sequential: how external ports are"
            " chosen",
        ),
        (
            server_and("sites:\n  home:\n    clients:\n      alice:\n        extensions: [symmetric, sequential]\n"),
            "lab.yaml:7: the extension sequential builds on port-preserving; add port-preserving, or leave out"
            " sequential",
        ),
        (
            server_and("sites:\n  home:\n    clients:\n      alice:\n        extensions: [symmetrical]\n"),
            "lab.yaml:7: extensions cannot be 'symmetrical'; it takes a list of the extensions of RFC 6081 that the"
            " client has: symmetric, upnp, port-preserving, sequential, hairpinning, load-reduction; all by default",
        ),
        (
            server_and(
                "sites:\n  h:\n    clients:\n      a:\n        program: miredo\n        extensions: [hairpinning]\n"
            ),
            "lab.yaml:8: miredo has none of the extensions of RFC 6081; leave it out, or take program: teredo-lab",
        ),
        (
            server_and("hosts:\n  web:\n    ipv4: 192.0.2.9\n"),
            "lab.yaml:5: only a host with a relay of its own has IPv4; add relay: local",
        ),
        (
            "servers:\n  server:\n    program: miredo\n    secrets: {me: x}\n",
            "lab.yaml:4: miredo has no secure qualification; leave it out, or take program: teredo-lab",
        ),
        (
            "servers:\n  server:\n    program: miredo\n    relay: true\n",
            "lab.yaml:4: a miredo server is no relay; leave it out, or take program: teredo-lab",
        ),
        (
            server_and("sites:\n  home:\n    clients:\n      alice:\n        program: miredo\n        secret: x\n"),
            "lab.yaml:8: miredo has no secure qualification; leave it out, or take program: teredo-lab",
        ),
        (
            server_and(
                "sites:\n  home:\n    clients:\n      alice:\n        program: miredo\n        refresh_interval: 9\n"
            ),
            "lab.yaml:8: miredo finds its refresh interval by itself; leave it out, or take program: teredo-lab",
        ),
        (
            server_and(
                "sites:\n  home:\n    clients:\n      alice:\n        program: miredo\n        local_discovery: yes\n"
            ),
            "lab.yaml:8: miredo has no option local_discovery; leave it out, or take program: teredo-lab",
        ),
        (
            server_and(
                "sites:\n  home:\n    clients:\n      alice:\n        program: miredo\n        datapath: kernel\n"
            ),
            "lab.yaml:8: miredo has no choice of data path; leave it out, or take program: teredo-lab",
        ),
        (
            server_and("relays:\n  r:\n    program: miredo\n    datapath: userspace\n"),
            "lab.yaml:6: miredo has no choice of data path; leave it out, or take program: teredo-lab",
        ),
        (
            server_and(
                "sites:\n  home:\n    clients:\n      alice:\n"
                "        refresh_interval: 9\n        determine_interval: yes\n"
            ),
            "lab.yaml:8: a refresh interval is either configured or determined; leave it out, or refresh_interval:",
        ),
        (
            "servers:\n  server: {secrets: {me: x}}\nsites:\n  home:\n    clients:\n      alice:\n        client_id:"
            " me\n",
            "lab.yaml:7: a client_id needs a secret; add secret:",
        ),
        (
            "servers:\n  server: {secrets: {me: x}}\nsites:\n  home:\n    clients:\n      alice:\n        secret: x\n",
            "lab.yaml:7: a secret needs a client_id; add client_id:",
        ),
        (
            "servers:\n  server: {secrets: {alice: x}}\nsites:\n  home:\n    clients:\n      alice:\n"
            "        {secret: x, client_id: alise}\n",
            "lab.yaml:7: unknown client_id 'alise'; did you mean 'alice'? known: alice",
        ),
        (
            server_and("hosts:\n  web:\nchecks:\n  without:\n    - server\n"),
            "lab.yaml:7: unknown client or host 'server'; known: web",
        ),
        (
            server_and("hosts:\n  web:\n  two:\nchecks:\n  expect:\n    - {from: web, to: too, is: reachable}\n"),
            "lab.yaml:8: unknown client or host 'too'; did you mean 'two'? known: web, two",
        ),
        (
            server_and("hosts:\n  web:\nchecks:\n  expect:\n    - {from: web, to: web, is: reachable}\n"),
            "lab.yaml:7: 'web' cannot be checked from itself; name two nodes",
        ),
        (
            server_and(
                "hosts: {web: , two: }\nchecks:\n  expect:\n"
                "    - {from: web, to: two, is: reachable}\n    - {from: web, to: two, is: unreachable}\n"
            ),
            "lab.yaml:7: web to two is expected twice (see line 6); keep one of the two",
        ),
        (
            server_and(
                "hosts: {web: , two: }\nchecks:\n  without: [two]\n  expect:\n    - {from: web, to: two, is:"
                " reachable}\n"
            ),
            "lab.yaml:7: 'two' is left out of the checks (see line 5); keep one of the two",
        ),
    ],
)
def test_parts_that_do_not_fit(text: str, error: str) -> None:
    assert errors(text) == [error]


def test_nats_that_go_round_are_each_told() -> None:
    assert errors(server_and("sites:\n  a: {behind: b}\n  b: {behind: c}\n  c: {behind: b}\n  d: {behind: d}\n")) == [
        "lab.yaml:5: this goes round: b behind c behind b; have one of them on the Internet",
        "lab.yaml:6: this goes round: c behind b behind c; have one of them on the Internet",
        "lab.yaml:7: this goes round: d behind d; have one of them on the Internet",
    ]


def test_nats_behind_too_many_nats_are_told() -> None:
    chain = "".join(f"  s{number}: {{behind: s{number - 1}}}\n" for number in range(1, 18))
    assert errors(server_and(f"sites:\n  s0:\n{chain}")) == [
        f"lab.yaml:{line}: there are more than 16 NATs between this one's clients and the Internet; have it behind"
        " fewer"
        for line in (20, 21)
    ]


def test_all_contradictions_of_one_nat_are_told() -> None:
    assert errors(
        server_and("""\
            sites:
              home:
                nat:
                  kind: cone
                  mapping: APDM
                  filtering: APDF
                  delta: 3
                  udp_timeout: 5
                  udp_timeout_new: 6
            """)
    ) == [
        "lab.yaml:7: cone has mapping EIM, not APDM; leave out kind, or mapping",
        "lab.yaml:8: cone has filtering EIF, not APDF; leave out kind, or filtering",
        "lab.yaml:9: preserving ports have no delta; take ports: sequential",
        "lab.yaml:11: a new mapping cannot live longer than an established one, 5 s; take no more than udp_timeout",
    ]


@pytest.mark.parametrize(
    "nat",
    [
        "{kind: cone, mapping: EIM, filtering: EIF, ports: random}",
        "{kind: port_symmetric, ports: random}",
        "{ports: sequential, delta: 16}",
        "{collision: overload}",
        "{kind: home_router, collision: another, hairpin: yes, addresses: 4}",
        "{kind: home_router, udp_timeout: 20}",
        "{kind: cgn, engine: nftables, pooling: arbitrary}",
        "{kind: hotel, engine: nftables}",
        "{udp_timeout: 20, udp_timeout_new: 20}",
        "{kind: addr_symmetric, addresses: 16}",
    ],
)
def test_what_goes_together(nat: str) -> None:
    assert topology(f"{{servers: {{s: }}, sites: {{home: {{nat: {nat}}}}}}}")


def test_lans_of_neighbours_may_be_the_same() -> None:
    assert topology(
        "{servers: {s: }, sites: {c: , a: {behind: c, lan: 10.0.0.0/24}, b: {behind: c, lan: 10.0.0.0/24},"
        " d: {lan: 10.0.0.0/24}}}"
    )


def test_in_a_lan_with_clients_or_without_nats_fewer_addresses_are_taken() -> None:
    lab = topology(
        "{servers: {s: }, sites: {c: {lan: 10.0.0.0/24, clients: {x: {ipv4: 10.0.0.253}, y: {ipv4: 10.0.0.254}}},"
        " d: {lan: 10.0.1.0/24, clients: {z: }}, e: {behind: d, external: [10.0.1.253]}}}"
    )
    assert [str(placed.client.ipv4) for placed in lab.clients()] == ["10.0.0.253", "10.0.0.254", "None"]


def test_the_same_port_behind_two_nats_is_fine() -> None:
    assert topology("{servers: {s: }, sites: {a: {clients: {x: {port: 4000}}}, b: {clients: {y: {port: 4000}}}}}")


def test_a_host_may_be_named_local() -> None:
    assert "local" in topology("{servers: {s: }, hosts: {local: }}").hosts


def test_among_very_many_names_there_is_no_guessing() -> None:
    hosts = ", ".join(f"host{index}: " for index in range(301))
    assert errors(f"servers: {{s: }}\nhosts: {{{hosts}}}\nchecks: {{without: [hots0]}}") == [
        "lab.yaml:3: unknown client or host 'hots0'; known: host0, host1, host2, host3, host4, host5, host6, host7,"
        " host8, host9, host10, host11, …"
    ]


def test_all_problems_are_told_at_once_by_line() -> None:
    assert errors(
        server_and("""\
            relays:
              relay:
                port: 1
            sites:
              home:
                nat: conee
                natt: cone
                clients:
                  alice:
                    server: sever
                  server:
            clients:
            """)
    ) == [
        "lab.yaml:5: port cannot be '1'; it takes the relay's UDP port, 1024 to 65535",
        f"lab.yaml:8: unknown NAT kind 'conee'; did you mean 'cone'? known: {KINDS_SHOWN}",
        "lab.yaml:9: unknown option 'natt'; did you mean 'nat'? known: nat, behind, external, lan, link, clients,"
        " count",
        "lab.yaml:12: unknown server 'sever'; did you mean 'server'? known: server",
        "lab.yaml:13: two nodes are named 'server' (see line 2); rename one",
        "lab.yaml:14: a client needs a site: move it under sites: <site>: clients:",
    ]


def test_a_wrong_thing_does_not_make_references_to_it_wrong() -> None:
    assert errors(
        server_and("hosts:\n  web: 5\n  two:\nchecks:\n  expect:\n    - {from: web, to: two, is: reachable}\n")
    ) == ["lab.yaml:4: web cannot be '5'; it takes options: relay, ipv4, link"]
