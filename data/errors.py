"""Errors of data: what a file should be, and is not."""


class DataError(ValueError):
    """A data set or a text is not what it should be; the message names the file, the place in it, and what to do.

    Attributes:
        exit_code: what a program that stops because of it should end with.
    """

    exit_code = 4
