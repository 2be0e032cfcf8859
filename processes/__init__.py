"""The process tree of ``metaspo up`` and ``metaspo demo``: started by command, watched, restarted, never left behind.

Each process of the house is one of its own commands (``metaspo gateway serve``, ``metaspo jobs worker`` ...) in a
session of its own, so a Ctrl-C in the terminal reaches only the process that owns the tree, which then ends the others
in order: those that write before the store they write to. The embedded Redis is watched like the others: dead, it is
started again on the same append-only file. Nothing here imports the packages; what to start is handed in.
"""

from processes.interrupts import Interrupts, interrupts
from processes.places import ProcessError, claim_home, free_address, url_of
from processes.tree import House, Program, Running, Storage, Tree, alive, metaspo

__all__ = [
    "House",
    "Interrupts",
    "ProcessError",
    "Program",
    "Running",
    "Storage",
    "Tree",
    "alive",
    "claim_home",
    "free_address",
    "interrupts",
    "metaspo",
    "url_of",
]
