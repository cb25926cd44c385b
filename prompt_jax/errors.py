"""The failures a user meets; each message is one line: the offender and the remedy."""


class UserError(ValueError):
    """A wrong input: a name, a file, a shape, a setting. The command line exits with code 2."""


class RunError(RuntimeError):
    """What went wrong while running, such as a NaN loss. The command line exits with 1."""


class Preempted(RunError):
    """The run saved its state after SIGTERM; run the same command to continue. Exit code 75."""
