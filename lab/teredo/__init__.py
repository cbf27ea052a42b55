"""Teredo (RFC 4380, RFC 5991): wire formats and state machines without I/O, and a runner that gives them sockets.

Only `runner` and `tun` touch the machine. Everything else takes the time and its randomness as arguments, so the same
code runs on sockets, in virtual time and under a property-based tester.
"""
