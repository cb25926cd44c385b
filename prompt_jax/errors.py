"""The two kinds of failure a user meets; each is one line that names the offender and the remedy."""


class UserError(ValueError):
    """A wrong input: a name, a file, a shape, a setting. The command line exits with code 2."""


class RunError(RuntimeError):
    """Something that went wrong while running, such as a NaN loss. The command line exits with 1."""


class Preempted(RunError):
    """The run saved its state after SIGTERM; run the same command to continue. Exit code 75."""
