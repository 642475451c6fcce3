"""The one exception that the command line turns into a single line instead of a traceback."""


class InputError(ValueError):
    """What the user gave cannot be used: a flag, a name, a file, a data set.

    The message is one line. It names the file, line, field or shape at fault and the way out.
    Mistakes in code that calls the library stay ordinary `ValueError`s, with their traceback.
    """
