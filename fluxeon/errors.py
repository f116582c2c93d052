"""How a command ends when it does not succeed."""


class CommandFailed(Exception):  # noqa: N818 - reads as what it is
    """An expected failure: one line on stderr, exit code 1."""


class BadUsage(Exception):  # noqa: N818
    """The command line cannot be understood: one line on stderr, exit code 2."""
