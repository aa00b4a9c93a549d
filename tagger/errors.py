"""The error of a user's input or environment."""


class UserError(Exception):
    """A flag, an input or the environment is wrong, and the user can mend it.

    Programs print a line for each problem, and exit with status 1. Every other
    exception is a bug or an error of the machine, and keeps its traceback.

    Args:
      problems: for each, what is wrong, what is allowed and what was given.
    """

    def __init__(self, *problems: str):
        # Names of files and quoted fields may contain line breaks.
        self.problems = [" ".join(problem.splitlines()) for problem in problems]
        super().__init__("\n".join(self.problems))
