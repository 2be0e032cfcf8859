"""What can go wrong in the optimizer, as one tree. Foreign errors are translated at the edge where they appear.

::

    OptimizerError              anything of ours: one clear sentence, safe to show
    |-- SearchFileError         the search file: a wrong key, type or value            (mend the file)
    |-- DataError               a task folder: names the file and the line             (mend the data)
    |-- ModelError              a language model's endpoint; names role and model
    |   |-- EndpointRefused     it said no for good: 400, 401, 403, 404, not JSON      (mend key, name or address)
    |   `-- EndpointDown        it stayed away or stayed busy after every retry        (resume later)
    |-- JournalError            the journal cannot be read or written (full disk)      (resume after mending)
    |-- BudgetSpent             the hard stop of the budget; the best so far stands
    `-- RunBlocked              the run must not start or go on: a judge that passes wrong answers, no headroom,
                                raw examples from traffic for a method that shows them to a writer

A failure of *one example* is never an exception: it is a ``Rollout`` without a score, with its reason.
"""

from __future__ import annotations


class OptimizerError(Exception):
    """Base of all errors of this package. ``str(error)`` is one sentence that says what to do."""


class SearchFileError(OptimizerError):
    """The search file cannot be used as written."""


class DataError(OptimizerError):
    """A task folder cannot be used as written. The message begins with ``file:line:`` where a line is known."""


class ModelError(OptimizerError):
    """A model's endpoint failed as a whole (not for one example)."""


class EndpointRefused(ModelError):
    """The endpoint refused for good: trying again cannot help."""


class EndpointDown(ModelError):
    """The endpoint did not answer, or answered only with transient errors, until the retries ran out."""


class JournalError(OptimizerError):
    """The journal cannot be opened, read or written. What was committed before stays valid."""


class BudgetSpent(OptimizerError):
    """The next call would pass the budget. Nothing was spent beyond it; the search returns the best so far."""


class RunBlocked(OptimizerError):
    """The run was stopped on purpose before it could waste money or mislead; the message gives the reason."""
