"""Which names look like secrets."""

import pytest

from flor_dagster.versions.secrets import credentials_in, secret_pattern
from flor_dagster.versions.snapshot import snapshot
from tests.versions.conftest import UserRepo

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
    "password.txt",
    "db-password",
    "hf_token",
    ".huggingface/token",
    "api_key.txt",
    "gcp-key.json",
    ".vault_pass",
    "terraform.tfstate",
    "access_token.json",
    "private_key.txt",
    "secrets/db",
    ".databrickscfg",
]
HARMLESS = [
    "train.py",
    "model.pem.py",
    ".env.example",
    "conf/secrets.yaml.template",
    "id_rsa.pub",
    "keyboard.py",
    "tokenizer.json",
    "special_tokens_map.json",
    "data/train_tokens.bin",
    "tokens.npy",
    "reset_password.py",
    "token_model.py",
    "api_keys.md",
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


AWS = b"AKIA" + b"ABCDEFGHIJKLMNOP"
CREDENTIALS = [
    AWS, b"key = '" + AWS + b"'", b"ghp_" + b"a1B2" * 9, b"hf_" + b"aBcD" * 9, b"-----BEGIN RSA " + b"PRIVATE KEY-----",
    b"aws_secret_access_key = " + b"abcdefghij" * 4, b"glpat-" + b"x1" * 12,
]  # fmt: skip
NONE = [
    b"password = input()", b"token = tokenizer(text)", b"postgresql://user:name@localhost/x", b"sk-learn", b"AKIA",
    b"hf_hub_download", b"risk-free-rate-of-the-market-over-thirty-years", bytes(range(256)) * 40,
]  # fmt: skip


@pytest.mark.parametrize("content", CREDENTIALS)
def test_a_credential_is_seen_in_a_file(content: bytes) -> None:
    assert credentials_in(b"import os\n" + content + b"\nx = 1\n")


@pytest.mark.parametrize("content", NONE)
def test_what_is_no_credential_is_not_taken_for_one(content: bytes) -> None:
    assert not credentials_in(content)


def test_files_with_credentials_stay_out_and_are_named(repo: UserRepo) -> None:
    repo.write("train.py")
    repo.write("config.py", "region = 'x'\n")
    repo.write("shared.py", f"key = '{AWS.decode()}'\n")
    repo.commit("the first")
    repo.write("config.py", f"region = 'x'\nkey = '{AWS.decode()}'\n")
    repo.write("shared.py", f"key = '{AWS.decode()}'\nmore = 1\n")
    repo.write("settings.py", f"key = '{AWS.decode()}'\n")
    repo.write("notes/api_key.txt", "abc")
    repo.write("fine.py")
    before = repo.fingerprint()
    made = snapshot(repo.root)
    files = repo.tree(made.commit)
    assert set(files) == {"train.py", "pkg/model.py", "config.py", "shared.py", "fine.py"}
    assert files["config.py"][1] == b"region = 'x'\n"
    assert b"more" in files["shared.py"][1], "what was committed with a credential is no news"
    named = dict(made.excluded)
    assert "credential" in named["settings.py"]
    assert "api_key" in named["notes/api_key.txt"]
    assert "as committed" in named["config.py"]
    assert "config.py" in dict(made.approximate)
    assert repo.fingerprint() == before
