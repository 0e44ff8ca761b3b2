"""Readers of other people's checkpoints, one format a file.

They were written by strangers, so nothing in them is ever executed, and whatever is wrong with one is a
`PretrainedError`.
"""


class PretrainedError(ValueError):
    """A checkpoint is refused. The text names the file and the reason.

    Attributes:
        exit_code: what a program that stops because of it should end with.
    """

    exit_code = 5
