"""A million clients in virtual time: one server, one relay, and what they bear.

State machines can be simulated by the thousand, not by the million. So what a client does is taken from them, the
constants by import and the messages by having them sent once (`costs`), and numpy only says when a million clients do
it (`clients`, `conversations`). `machines` and `talking_machines` are the same with the machines themselves, for
comparison. What a relay remembers is bounded: `relay` drives the real one. `scenarios` says what is tried.
"""
