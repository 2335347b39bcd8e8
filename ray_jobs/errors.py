"""The one exception that a user may see: a clear sentence and exit code 2."""


class UserError(Exception):
    """Something the user can mend; the message names the file or key and the fix."""
