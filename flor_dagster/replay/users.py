"""Who is at work: whose name stands with what a person decided."""

from __future__ import annotations

import getpass
import os


def user_name() -> str:
    """The name of the process's user, as the system knows it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in a container
        return f"user {os.getuid()}"
