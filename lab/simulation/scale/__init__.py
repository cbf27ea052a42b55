"""A million clients in virtual time: one server, one relay, and what they bear.

The state machines can be simulated in thousands, not in millions. So what one client does is taken from them (`costs`: the
messages and their sizes; the constants: imported), and numpy only says when a million do it (`clients`, `conversations`).
`machines` runs the same scenarios with the machines themselves, for comparison. A relay's state is bounded: `relay`
drives the real one. `scenarios` says what is tried, and what of it is shown.
"""
