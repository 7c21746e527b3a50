"""The one error that means: the user can put this right."""


class UserError(ValueError):
    """A mistake in options, files or arguments; entry points print its message alone and exit with code 2."""
