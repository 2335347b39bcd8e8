"""What a user sees when something goes wrong: one sentence, never a trace."""


class UserError(Exception):
    """Something the user can mend; the message names the file or key and the fix. Exit code 2."""


class StageFailed(Exception):
    """A fault that is not the user's; the message says where the trace was written. Exit code 1."""
