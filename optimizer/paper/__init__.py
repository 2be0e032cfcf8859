"""The paper's protocol as one command: tasks people know, methods beside each other, every number with its n and 95 %
interval.

``catalogue`` knows the tasks, ``rows`` fetches their examples, ``protocol`` says what is run, ``run`` runs it cell by
cell (each cell its own journaled run), ``raw`` holds one row per method, task and seed; ``tables``, ``page`` and
``figures`` make every table and figure from those rows and from nothing else.
"""

from optimizer.paper.methods import FAITHFUL, as_method
from optimizer.paper.raw import RawRow, read_raw

__all__ = ["FAITHFUL", "RawRow", "as_method", "read_raw"]
