"""The counter works with no network, and without the trainer."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import sys
from autoexp.brief.counting import count
print(count("def step(self, loss):\\n    return loss.item()\\n"), "torch" in sys.modules)
"""


def test_it_counts_without_a_network_and_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    tokens, torch = done.stdout.split()
    assert torch == "False"
    assert 10 <= int(tokens) <= 20
