"""Which file names look like secrets: such a file never enters a version unless the user tracks it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SECRET_PATTERNS: tuple[str, ...] = (
    ".env",
    ".env.*",
    "*.env",
    ".envrc",
    ".netrc",
    "_netrc",
    ".pgpass",
    ".pypirc",
    ".npmrc",
    ".htpasswd",
    ".git-credentials",
    ".dockercfg",
    ".dockerconfigjson",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "*.asc",
    "*.gpg",
    "*.ppk",
    "credentials",
    "credentials.*",
    "*credentials*.json",
    "client_secret*.json",
    "*service_account*.json",
    "*service-account*.json",
    "secret.*",
    "secrets.*",
    "*_secret.*",
    "*_secrets.*",
    "token.json",
    "*.token",
    "kaggle.json",
    "kubeconfig",
    "*.tfvars",
    ".aws/*",
    ".ssh/*",
    ".gnupg/*",
    ".docker/config.json",
    ".kube/config",
    "!*.example",
    "!*.sample",
    "!*.template",
    "!*.pub",
)
"""Shell patterns, compared without regard to case; what a pattern with `!` matches is never taken for a secret."""


def secret_pattern(path: str, patterns: Iterable[str] = SECRET_PATTERNS) -> str | None:
    """The pattern by which a file looks like a secret, or None.

    Args:
        path: Path in the repository, with slashes.
        patterns: Shell patterns. One without a slash is compared with the file's name, one with a slash with the end
            of the path. One that starts with `!` takes its files out again, wherever it stands.
    """
    lowered = path.lower()
    found: str | None = None
    for pattern in patterns:
        if pattern.startswith("!"):
            if _matches(lowered, pattern[1:].lower()):
                return None
        elif found is None and _matches(lowered, pattern.lower()):
            found = pattern
    return found


def _matches(path: str, pattern: str) -> bool:
    if "/" not in pattern:
        return fnmatchcase(path.rsplit("/", 1)[-1], pattern)
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*/{pattern}")
