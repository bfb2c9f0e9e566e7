"""The one exception that bad input raises."""


class InputError(ValueError):
    """Input that jxreg refuses, told in one line.

    Args:
        subject: The file or the argument that is wrong.
        found: What was given.
        expected: What is needed.
        fix: What the user can do about it.
    """

    def __init__(self, subject: str, found: str, expected: str, fix: str):
        super().__init__(f"{subject}: {found}; expected {expected}; {fix}")
        self.subject = subject
        self.found = found
        self.expected = expected
        self.fix = fix
