"""What a command tells a person in a line or two. Imports nothing heavy."""


class CommandError(RuntimeError):
    """Something that a person can mend, or must know of; the message alone is shown, without a traceback."""
