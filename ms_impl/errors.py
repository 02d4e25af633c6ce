"""The one exception for what a user can put right."""


class InputError(ValueError):
    """Something the user gave is wrong: a file, a record, a key, a tensor.

    The message names it and says what to do. Commands print it as ``error: …`` and exit with status 2.
    """
