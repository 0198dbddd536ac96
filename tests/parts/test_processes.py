"""What is below a process is found at once, by the kernel's lists and without them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.parts import processes
from tests.parts.processes import children_of

PARENT = "import subprocess; subprocess.Popen(['cat']).wait()"


@pytest.mark.parametrize("has_lists", [True, False])
def test_children_and_their_children_are_found_a_zombie_included(
    has_lists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_lists and not processes._HAS_LISTS:
        pytest.skip("this kernel has no lists of children")
    monkeypatch.setattr(processes, "_HAS_LISTS", has_lists)
    before = children_of(os.getpid())
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE) as parent:
        while not (below := children_of(parent.pid)):
            assert parent.poll() is None
        assert children_of(os.getpid()) - before == {parent.pid}
        assert children_of(os.getpid(), recursive=True) >= {parent.pid} | below

        parent.communicate(b"")  # cat ends, and so does its parent
    assert children_of(parent.pid) == set()

    with subprocess.Popen(["true"]) as zombie:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        assert zombie.pid in children_of(os.getpid())
    assert zombie.pid not in children_of(os.getpid())
