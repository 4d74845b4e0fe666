"""Which files look like secrets, by their names or by what is in them: such a file never enters a version unless the user tracks it."""

from __future__ import annotations

import re
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


_WIDE: tuple[str, ...] = (
    "*password*", "*passwd*", "*passphrase*", "*_pass", "*-pass", "*vault*pass*", ".vault*", "*api_key*", "*api-key*", "*apikey*",
    "*access_key*", "*access-key*", "*secret_key*", "*private_key*", "*private-key*", "*_key.json", "*-key.json", "*_key.txt",
    "*-key.txt", "*.secret", "*.secrets", "secret", "secrets", "secrets/*", ".secrets/*", "*_secret", "*-secret*", "token",
    "token.txt", "token.json", "*_token", "*-token", "*_token.txt", "*_token.json", "*-token.txt", "*-token.json", ".*token*", "*.tfstate", "*.tfstate.*", "*.ovpn",
    ".my.cnf", ".boto", ".s3cfg", ".databrickscfg", ".huggingface/*", ".kaggle/*", ".azure/*", ".config/gcloud/*",
    "application_default_credentials*", "*.netrc", "*auth*.json", "*.pkcs12", "*.der", "*keyfile*",
)  # fmt: skip
"""Names that would be too wide for source code."""

_SOURCE = (
    ".py", ".pyi", ".pyx", ".ipynb", ".md", ".rst", ".c", ".cc", ".cpp", ".cu", ".h", ".rs", ".js", ".ts", ".html", ".css", ".sh",
    ".png", ".svg",
)  # fmt: skip

LOOKED_AT_BYTES = 1_000_000
"""Larger files are not looked into."""

_CREDENTIALS = re.compile(
    rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bglpat-[\w-]{20,}|\bxox[abeoprs]-[\w-]{20,}"
    rb"|\bsk-(?:proj-|ant-)?[\w-]{32,}|\bhf_[A-Za-z0-9]{30,}|\bAIza[\w-]{35}|\bya29\.[\w-]{30,}|\bdckr_pat_[\w-]{20,}"
    rb"|\bnpm_[A-Za-z0-9]{36}|\bpypi-AgE[\w-]{30,}|\bSG\.[\w-]{20,}\.[\w-]{20,}|\b[rs]k_live_\w{20,}|\bdapi[0-9a-f]{32}\b"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----|\"private_key\": \"-----BEGIN"
    rb"|\baws_secret_access_key\b[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9/+]{40}\b"
)
"""What issuers of keys and tokens make, and private keys: nothing that code has by chance."""


def credentials_in(content: bytes) -> frozenset[bytes]:
    """The credentials in a file's content."""
    return frozenset(_CREDENTIALS.findall(content))


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
    if found is None and patterns and not lowered.endswith(_SOURCE):
        found = next((pattern for pattern in _WIDE if _matches(lowered, pattern)), None)
    return found


def _matches(path: str, pattern: str) -> bool:
    if "/" not in pattern:
        return fnmatchcase(path.rsplit("/", 1)[-1], pattern)
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*/{pattern}")
