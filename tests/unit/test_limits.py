"""What a large lab needs of a machine, said before anything is made."""

from __future__ import annotations

import pytest

from lab.backends.netns import too_small


@pytest.mark.parametrize(
    ("nodes", "files", "namespaces", "expected"),
    [
        (1254, 20_000, 96_365, []),
        (1254, -1, -1, []),
        (700, 4096, 96_365, []),
        (10, 4096, 10, []),
        (1254, 4096, 96_365, ["a process may open 4,096 files here, and a lab of 1,254 nodes needs 6,470: raise"]),
        (11, 4096, 10, ["there may be 10 network namespaces here, and a lab of 11 nodes has as many: sysctl"]),
        (1254, 1024, 0, ["a process may open 1,024 files", "there may be 0 network namespaces"]),
    ],
)
def test_limits_that_a_lab_would_run_into_are_named_with_a_remedy(
    nodes: int, files: int, namespaces: int, expected: list[str]
) -> None:
    found = too_small(nodes, files, namespaces)
    assert len(found) == len(expected)
    assert all(problem.startswith(start) for problem, start in zip(found, expected, strict=True)), found
