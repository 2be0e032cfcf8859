"""What can go wrong in the clock of the house.

::

    JobsError                    a job could not do its work; the text is one sentence that says what to do
    ├── UnknownJob               no job has this name (names the nearest one)
    ├── BadSchedule              a cron expression that cannot be read
    ├── BadModel                 a domain names a language model that no route and no upstream serves
    ├── NoWork                   a run that cannot start: its ``cause`` is a bounded metric label, its text the reason
    ├── LeaseLost                another holder has the lease: this one must stop writing at once
    └── QueueUnavailable         the task queue's Redis does not answer

Foreign errors are translated at one edge each: the registry's in ``worker.py``, the queue library's in ``queue.py``,
the cron library's in ``cron.py``, the search's in ``optimize.py``.
"""

from __future__ import annotations


class JobsError(Exception):
    """Base of all errors of this package."""


class UnknownJob(JobsError):
    """No job has this name."""


class BadSchedule(JobsError):
    """A cron expression that cannot be read."""


class BadModel(JobsError):
    """A model name that cannot be resolved to an upstream."""


class NoWork(JobsError):
    """A defined outcome, not a fault: the job has a good reason not to do it.

    ``cause`` is one of a short, fixed list of words (a metric label), the message is for people.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class LeaseLost(JobsError):
    """The right to do this job has passed to somebody else."""


class QueueUnavailable(JobsError):
    """The queue's server cannot be reached."""
