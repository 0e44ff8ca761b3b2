"""Readers of other people's checkpoints, one format a file.

They were written by strangers, so nothing in them is ever executed, and whatever is wrong with one is a
`PretrainedError`.
"""


class PretrainedError(ValueError):
    """A checkpoint is refused. The text names the file and the reason."""
