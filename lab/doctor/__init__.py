"""Whether this machine can run labs: what it has is tried or looked at (facts), and judged by pure functions."""
