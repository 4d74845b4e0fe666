"""Which names look like secrets."""

import pytest

from flor_dagster.versions.secrets import secret_pattern

SECRETS = [
    ".env",
    ".env.local",
    "prod.env",
    "conf/.ENV",
    "id_rsa",
    "deploy/id_ed25519.bak",
    "cert.PEM",
    "tls.key",
    "aws-credentials.json",
    "credentials",
    ".netrc",
    ".pypirc",
    "kaggle.json",
    "client_secret_123.json",
    "my-service-account.json",
    "secrets.yaml",
    "secrets.py",
    "vault_secrets.toml",
    ".aws/credentials",
    "home/.ssh/config",
    "terraform.tfvars",
]
HARMLESS = [
    "train.py",
    "model.pem.py",
    ".env.example",
    "conf/secrets.yaml.template",
    "id_rsa.pub",
    "keyboard.py",
    "tokenizer.json",
    "environment.yml",
    "data/keys.csv",
    "monkey.txt",
    ".github/workflows/ci.yml",
    "docs/credentials-howto.md",
]


@pytest.mark.parametrize("name", SECRETS)
def test_a_likely_secret(name):
    assert secret_pattern(name) is not None


@pytest.mark.parametrize("name", HARMLESS)
def test_no_secret(name):
    assert secret_pattern(name) is None


def test_patterns_are_settable():
    assert secret_pattern("a/b.weights", ["*.weights"]) == "*.weights"
    assert secret_pattern("a/b.weights", ["*.weights", "!b.*"]) is None
    assert secret_pattern("private/b.txt", ["private/*"]) == "private/*"
    assert secret_pattern(".env", []) is None
