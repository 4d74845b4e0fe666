"""Which environment variables decide values, which are read, and what is kept of them."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from flor_dagster.recording import variables
from flor_dagster.recording.masking import (
    KnownSecrets,
    Masker,
    is_plain,
    keyed_digest,
    looks_like_credential,
    masked_argv,
    project_key,
    secret_arguments,
    secret_name,
    unmasked_argv,
)
from flor_dagster.recording.variables import is_machine, is_numeric, is_of_session
from flor_dagster.replay.record import read_run
from tests.recording.record_lab import Project

NUMERIC = (
    "OMP_NUM_THREADS GOMP_CPU_AFFINITY KMP_AFFINITY MKL_CBWR MKL_NUM_THREADS OPENBLAS_CORETYPE GOTO_NUM_THREADS BLIS_ARCH_TYPE "
    "NPY_DISABLE_CPU_FEATURES NUMBA_CPU_NAME NUMEXPR_MAX_THREADS ATEN_CPU_CAPABILITY TORCH_NUM_THREADS PYTORCH_CUDA_ALLOC_CONF "
    "DNNL_MAX_CPU_ISA ONEDNN_MAX_CPU_ISA CUBLAS_WORKSPACE_CONFIG CUDA_VISIBLE_DEVICES CUDNN_DETERMINISTIC NVIDIA_TF32_OVERRIDE "
    "NCCL_ALGO GLOO_SOCKET_IFNAME XLA_FLAGS JAX_ENABLE_X64 TF_DETERMINISTIC_OPS PYTHONHASHSEED PYTHONOPTIMIZE PYTHONUTF8 PYTHON_GIL "
    "PYTHONINTMAXSTRDIGITS LC_ALL LC_NUMERIC LANG TZ MALLOC_ARENA_MAX MALLOC_CONF GLIBC_TUNABLES LD_PRELOAD TOKENIZERS_PARALLELISM "
    "TORCHINDUCTOR_MAX_AUTOTUNE"
)


@pytest.mark.parametrize("name", NUMERIC.split())
def test_what_decides_numbers_is_told_by_its_name(name: str) -> None:
    assert is_numeric(name)
    assert not is_machine(name)


def test_what_says_where_things_lie_decides_no_numbers() -> None:
    for name in [
        "PATH",
        "HOME",
        "CUDA_HOME",
        "TORCH_HOME",
        "JAX_CACHE_DIR",
        "PYTHONPATH",
        "PYTHONHOME",
        "XDG_CACHE_HOME",
        "SSL_CERT_FILE",
    ]:
        assert is_machine(name), name
        assert not is_numeric(name), name
    for name in [
        "LR",
        "DATA_DIR",
        "TF_VAR_password",
        "TF_TOKEN_app_terraform_io",
        "TF_CLI_CONFIG_FILE",
        "LANGCHAIN_KEY",
        "MKLDIR",
    ]:
        assert not is_numeric(name), name
    for name in ["TERM", "SSH_AUTH_SOCK", "VSCODE_PID", "PWD", "LS_COLORS"]:
        assert is_of_session(name), name


SECRETS = (
    "HF_TOKEN WANDB_API_KEY AWS_SECRET_ACCESS_KEY AWS_ACCESS_KEY_ID DB_PWD api-key apiKey dbPassword PASSWORD PGPASSWORD GITHUB_PAT "
    "AUTH_TOKEN DB_PW DBPASS OPENAI_KEY token JWT SLACK_BOT_TOKEN AZURE_CLIENT_SECRET DATABASE_DSN NVIDIA_API_KEY private_key passphrase HTTP_COOKIE SALT PIN card_pin SLACK_WEBHOOK_URL CONNECTION_STRING"
)
NO_SECRETS = (
    "PWD max_tokens num_tokens token_dim cls_token author KEYS n_keys key compass pass_rate monkey LR DATA_DIR TOKENIZERS_PARALLELISM "
    "vocab_token_ids hidden_dim passes keyboard tokenizer secretary_model_of bypass patience authentic pin_memory PIN_MEMORY opinion pin connections TOKEN_PATTERN auth-mode"
)


@pytest.mark.parametrize("name", SECRETS.split())
def test_a_secret_is_told_by_its_name(name: str) -> None:
    assert secret_name(name)


@pytest.mark.parametrize("name", NO_SECRETS.split())
def test_a_name_that_only_resembles_one_is_no_secret(name: str) -> None:
    assert not secret_name(name)


def test_a_secret_is_told_by_its_form_under_any_name() -> None:
    # Put together here: no file of the project holds a text of such a form.
    for value in (
        "gh" + "p_" + "a1B2" * 9, "hf" + "_" + "abcD" * 8, "AK" + "IA" + "ABCDEFGHIJKLMNOP", "s" + "k-" + "ab12" * 8,
        "postgresql://user:" + "w0rd" + "@host/db", "ey" + "J" + "hbGciOiJIUzI1" + ".eyJzdWIi", "password=" + "hunter22", "tok" + "en:abcdef12", '{"pass' + 'word": "hunter22"}',
    ):  # fmt: skip
        assert looks_like_credential(value)
        assert not is_plain("SETTING", value)
    for value in (
        "0.05",
        "true",
        "/data/sets/a b",
        "adamw",
        "http://host:80/x",
        "a,b,c",
        "cuda:0",
        "2026-11-30",
    ):
        assert is_plain("SETTING", value), value
    assert not is_plain("SETTING", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b")
    assert not is_plain("SETTING", "x" * 300)


def test_a_command_line_is_kept_without_its_secrets_and_made_whole_again() -> None:
    argv = [
        "t.py",
        "--api-key=abc123",
        "--password",
        "hunter22",
        "--lr",
        "0.1",
        "db_token=zzz9",
        "--token",
        "-v",
        "--max-tokens",
        "9",
    ]
    secrets = secret_arguments(argv)
    assert [(one.number, one.name, one.value) for one in secrets] == [
        (1, "api-key", "abc123"), (3, "password", "hunter22"), (6, "db_token", "zzz9"),
    ]  # fmt: skip
    masked = masked_argv(argv, secrets)
    assert not any(word in " ".join(masked) for word in ("abc123", "hunter22", "zzz9"))
    assert unmasked_argv(masked, {one.number: one.value for one in secrets}) == argv


def test_digests_are_under_a_key_of_the_project_that_only_its_owner_reads(tmp_path: Path) -> None:
    key = project_key(tmp_path)
    assert project_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    (tmp_path / "other").mkdir()
    assert keyed_digest(key, "a") != keyed_digest(project_key(tmp_path / "other"), "a")


def test_texts_are_masked_whole_values_first() -> None:
    mask = Masker(["secret-1", "secret-1-longer", "abc"])
    assert mask("x secret-1-longer y secret-1 abc") == "x *** y *** abc"
    assert mask("https://u:pw@host") == "https://u:***@host"


def test_names_stand_for_known_secrets_and_are_put_back() -> None:
    known = KnownSecrets()
    known.add({"A_TOKEN": "abc-123-x", "A_WORD": "password", "A_NUMBER": "12345678"})
    named = known.named("Bearer abc-123-x!")
    assert named == "Bearer \0A_TOKEN\0!"
    assert known.unnamed(named) == "Bearer abc-123-x!"
    assert known.named("password 12345678") is None  # an ordinary word or number is found everywhere
    with pytest.raises(KeyError):
        KnownSecrets().unnamed(named)


# What a program reads ----------------------------------------------------------------------------------------------------


def _reads(tmp_path: Path, source: str, **variables: str) -> dict[str, tuple[str, bool, str | None]]:
    """Name → (by, whether it was there, the value where it was kept) of a script's run."""
    project = Project(tmp_path / "p", git=True)
    run = project.run("import flor_dagster as flor\n" + source + "\nflor.log('x', 1)\n", **variables)
    return {parts[1]: (parts[2], parts[3] is not None, parts[4]) for parts in run.of("r")}


def test_what_the_program_reads_is_noted_with_its_value_where_it_is_no_secret(tmp_path: Path) -> None:
    found = _reads(
        tmp_path, "import os\nos.environ['LR']; os.getenv('ABSENT'); os.environ.get('MY_TOKEN')\n'FLAG' in os.environ",
        LR="0.5", MY_TOKEN="s3cret-value", FLAG="1", UNREAD="x",
    )  # fmt: skip
    assert found["LR"] == ("own", True, "0.5")
    assert found["ABSENT"] == ("own", False, None)
    assert found["MY_TOKEN"] == ("own", True, None)
    assert found["FLAG"][2] == "1"
    assert "UNREAD" not in found


def test_what_the_program_has_set_itself_is_no_input(tmp_path: Path) -> None:
    found = _reads(
        tmp_path,
        "import os\nos.environ['MADE'] = '1'\nos.environ['MADE']\nos.environ.setdefault('GIVEN', '2')",
        GIVEN="3",
    )
    assert "MADE" not in found
    assert found["GIVEN"][2] == "3"


def test_what_libraries_read_for_the_program_is_the_programs_own(tmp_path: Path) -> None:
    source = """
import argparse, os, sys
import click
parser = argparse.ArgumentParser()
parser.add_argument("--lr", default=os.environ.get("ARG_LR", "1"))
parser.parse_args([])
@click.command()
@click.option("--width", envvar="CLICK_WIDTH")
def main(width): pass
main([], standalone_mode=False)
from dotenv import load_dotenv
open("settings.env", "w").write("FROM_FILE=1\\nFROM_SHELL=2\\n")
load_dotenv("settings.env")
from pydantic_settings import BaseSettings, SettingsConfigDict
class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="APP_")
    rate: float = 0.1
Settings()
"""
    found = _reads(
        tmp_path, source, ARG_LR="0.1", CLICK_WIDTH="7", FROM_SHELL="9", APP_RATE="0.25", APP_OTHER="1"
    )
    assert found["ARG_LR"] == ("own", True, "0.1")
    assert found["CLICK_WIDTH"] == ("own", True, "7")
    assert found["FROM_SHELL"] == ("own", True, "9")
    assert found["APP_RATE"] == ("own", True, "0.25")
    # pydantic-settings and dotenv read all at once; what matters are the fields, and the names in the file.
    assert "APP_OTHER" not in found


def test_what_is_read_before_the_package_is_imported_is_noted_by_its_name_in_the_source(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path / "p", git=True)
    project.write({"settings.py": "import os\nRATE = os.environ['EARLY_RATE']\n"})
    run = project.run(
        "import os\nfolder = os.environ.get('EARLY_FOLDER')\nimport settings\nimport flor_dagster as flor\nflor.log('x', 1)\n",
        EARLY_RATE="0.5", EARLY_FOLDER="/data", EARLY_UNREAD="1",
    )  # fmt: skip
    found = {parts[1]: parts[4] for parts in run.of("r")}
    assert found["EARLY_RATE"] == "0.5"
    assert found["EARLY_FOLDER"] == "/data"
    assert "EARLY_UNREAD" not in found


def test_what_the_standard_library_looks_up_for_the_program_is_the_programs_own(tmp_path: Path) -> None:
    found = _reads(
        tmp_path,
        "import os, string, collections\nos.path.expandvars('${FOLDER}/x')\nstring.Template('$WORD').safe_substitute(os.environ)\n"
        "collections.ChainMap(os.environ, {}).get('A_' + 'name'.upper())\nos.path.expanduser('~/x')",
        FOLDER="/mnt", WORD="w", A_NAME="n",
    )  # fmt: skip
    assert [found[name][2] for name in ("FOLDER", "WORD", "A_NAME")] == ["/mnt", "w", "n"]
    assert found["HOME"][0] == "own"


def test_names_that_are_computed_before_the_package_is_imported_are_a_listing(tmp_path: Path) -> None:
    project = Project(tmp_path / "p", git=True)
    project.write({"settings.py": "import os\ndef late(name): return os.environ[name]\n"})
    early = "import os\nrate = os.environ['EARLY_' + 'rate'.upper()]\n"
    begin = "import flor_dagster as flor\n"
    end = "import settings\nsettings.late('EARLY_RATE')\nflor.log('x', 1)\n"
    found = [
        {parts[1]: parts[2] for parts in project.run(text, EARLY_RATE="0.5", EARLY_OTHER="1").of("r")}
        for text in (early + begin + end, begin + early + end)
    ]
    assert found[0]["EARLY_OTHER"] == "listed"
    assert "EARLY_OTHER" not in found[1]
    assert [one["EARLY_RATE"] for one in found] == ["own", "own"]


@pytest.mark.parametrize(
    "early",
    [
        "import subprocess\nsubprocess.run('true', shell=True)",
        "os.system('true')",
        "os.spawnl(os.P_WAIT, '/bin/true', 'true')",
        "os.path.expandvars('$EARLY_RATE')",
        'exec(\'__import__("os").getenv("EARLY_" + "RATE")\')',
        "import pydantic_settings\nclass C(pydantic_settings.BaseSettings):\n    early_rate: str = ''\nC()",
        "import click\n@click.command()\n@click.option('--rate')\ndef main(rate): pass\nmain([], standalone_mode=False, auto_envvar_prefix='EARLY')",
        "[k for k in os.environb if k.startswith(b'EARLY')]",
    ],
)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_however_the_environment_is_read_at_once_it_is_a_listing(
    tmp_path: Path, early: str, *, before: bool
) -> None:
    if not before and "click" in early:
        return  # by then it is seen which ones
    project = Project(tmp_path / "p", git=True)
    begin = "import flor_dagster as flor\n"
    text = f"import os\n{early}\n{begin}" if before else f"import os\n{begin}{early}\n"
    found = {p[1]: p[4] for p in project.run(f"{text}flor.log('x', 1)\n", EARLY_RATE="0.5").of("r")}
    assert found["EARLY_RATE"] == "0.5"


def test_a_library_that_is_only_imported_has_read_nothing(tmp_path: Path) -> None:
    project = Project(tmp_path / "p", git=True)
    run = project.run(
        "import logging, click, pydantic_settings\nlog = logging.getLogger('x')\n"
        "import flor_dagster as flor\n@click.command()\ndef main(): flor.log('x', 1)\nmain([], standalone_mode=False)\n",
        EARLY_RATE="0.5",
    )
    assert "EARLY_RATE" not in {p[1] for p in run.of("r")}


def test_what_a_script_changed_before_the_package_is_imported_is_kept_as_it_found_it(tmp_path: Path) -> None:
    project = Project(tmp_path / "p", git=True)
    run = project.run(
        "import os\nos.environ['FOUND'] = os.environ.get('FOUND', '') + 'x'\nos.environ['MADE'] = '1'\n"
        "import flor_dagster as flor\nos.umask(0o077)\nos.environ['FOUND'], os.environ['MADE']\nflor.log('x', 1)\n",
        FOUND="7",
    )  # fmt: skip
    found = {p[1]: p[4] for p in run.of("r")}
    assert found["FOUND"] == "7"
    assert "MADE" not in found
    assert run.of("flor")[0][2]["process"]["umask"] != 0o077


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_what_processes_read_that_the_training_makes_for_its_work_it_has_read(
    tmp_path: Path, how: str
) -> None:
    project = Project(tmp_path / "p", git=True)
    run = project.run(
        f"""
import multiprocessing, os
import flor_dagster as flor
def work(n):
    return os.environ.get("CHILD_" + "RATE"), os.environ["CHILD_TOKEN"]
if __name__ == "__main__":
    flor.log("x", 1)
    with multiprocessing.get_context("{how}").Pool(2) as pool:
        pool.map(work, range(4))
""",
        CHILD_RATE="0.5", CHILD_TOKEN="s3cret-0f-tests", CHILD_UNREAD="1",
    )  # fmt: skip
    found = read_run(run.path.parent).variables
    assert found["CHILD_RATE"].value == "0.5"
    assert found["CHILD_TOKEN"].value is None
    assert found["CHILD_TOKEN"].digest
    assert "CHILD_UNREAD" not in found
    assert not any(b"s3cret-0f-tests" in p.read_bytes() for p in run.path.parent.rglob("*") if p.is_file())


def test_the_programs_own_variables_may_begin_as_the_packages_do(tmp_path: Path) -> None:
    found = _reads(
        tmp_path, "import os\nos.environ['FLOR_RATE']; os.environ.get('FLOR_HOME')", FLOR_RATE="0.5"
    )
    assert found["FLOR_RATE"] == ("own", True, "0.5")
    assert "FLOR_HOME" not in found
    package = Path(variables.__file__).parents[1]
    named = {
        name for p in package.rglob("*.py") for name in re.findall(r"\bFLOR_[A-Z_]*[A-Z]\b", p.read_text())
    }
    assert named == set(variables.OURS)


def test_a_secret_is_kept_in_no_form_and_at_no_depth(tmp_path: Path) -> None:
    words = {
        "ARGUED": "arg-w0rd-0f-tests", "NESTED": "n3sted 'w0rd' 0f tests", "FIELD": "f1eld/w0rd+0f-tests",
        "MADE": "m4de-w0rd-0f-tests",
    }  # fmt: skip
    source = """
import argparse, base64, dataclasses, os, urllib.parse
import numpy as np
word = os.environ.pop
@dataclasses.dataclass
class Options:
    password: str
nested, field = bytes.fromhex(os.environ["N"]).decode(), bytes.fromhex(os.environ["F"]).decode()
flor.arg("options", {"db": [{"password": bytes.fromhex(os.environ["A"]).decode()}]})
flor.log("nested", {"a": {"api_key": nested}})
flor.log("field", Options(field))
flor.log("space", argparse.Namespace(auth_token=bytes.fromhex(os.environ["A"]).decode()))
os.environ["MADE_TOKEN"] = bytes.fromhex(os.environ["M"]).decode()
made = os.environ["MADE_TOKEN"]
for text in (nested, field, made):
    flor.log("basic", base64.b64encode(f"user:{text}".encode()).decode())
    flor.tags(owner=text)
    flor.log("array", np.array([text, "x"]))
    flor.log("key " + text, 1)
    flor.log("forms", [text, repr(text), urllib.parse.quote(text, safe=""), base64.b64encode(text.encode()).decode(), text.encode().hex()])
"""
    project = Project(tmp_path / "p", git=True)
    hidden = {name[0]: word.encode().hex() + "zz" for name, word in words.items()}
    source = re.sub(r'os.environ\["([ANFM])"\]', r'os.environ["\1"][:-2]', source)
    run = project.run("import flor_dagster as flor\n" + source, FLOR_KEEP_VARIABLES="0", **hidden)
    text = run.path.read_text()
    assert text.count('"unstored"') == 1, "the namespace alone"
    for word in words.values():
        assert base64.b64encode(word.encode("utf-32-le")).decode()[:-4] not in text
        forms = {word, repr(word)[1:-1], json.dumps(word)[1:-1], quote(word, safe=""), word.encode().hex()}
        forms.add(base64.b64encode(word.encode()).decode()[:-4])
        forms.add(base64.b64encode(f"user:{word}".encode()).decode()[8:-4])
        assert not [form for form in forms if form in text], word


def test_what_a_started_process_inherits_is_a_listing(tmp_path: Path) -> None:
    found = _reads(tmp_path, "import subprocess\nsubprocess.run('true')", ALPHA="7")
    assert found["ALPHA"] == ("listed", True, "7")
    (tmp_path / "more").mkdir()
    assert "ALPHA" not in _reads(
        tmp_path / "more", "import subprocess\nsubprocess.run(['/bin/true'], env={})", ALPHA="7"
    )


def test_a_copy_of_the_whole_environment_is_a_listing(tmp_path: Path) -> None:
    found = _reads(tmp_path, "import os\nevery = {**os.environ}\nos.environ.copy()", LISTED="1", TERM="vt100")
    assert found["LISTED"] == ("listed", True, "1")
    assert "TERM" not in found


def test_nothing_is_kept_in_plain_text_where_a_project_says_so(tmp_path: Path) -> None:
    project = Project(tmp_path / "p", git=True)
    project.write({"pyproject.toml": "[tool.flor]\nkeep_variables = false\n"})
    run = project.run(
        "import flor_dagster as flor\nimport os\nos.environ['LR']\nflor.log('x', 1)\n", LR="0.5"
    )
    ((_, name, _, digest, value),) = run.of("r")
    assert (name, value) == ("LR", None)
    assert digest


def test_reading_stays_cheap_and_the_environment_stays_what_it_is() -> None:
    code = (
        "import copy, os, pickle, subprocess\n"
        "import flor_dagster.recording.process\n"
        "assert isinstance(os.environ, os._Environ) and type(os.environ).__name__ == '_Environ'\n"
        "os.environ['NEW'] = '1'\n"
        "assert os.getenv('NEW') == '1' and subprocess.run(['printenv', 'NEW'], capture_output=True).stdout == b'1\\n'\n"
        "del os.environ['NEW']\n"
        "assert 'NEW' not in os.environ and os.environ.pop('NEW', 5) == 5\n"
        "assert dict(os.environ) == os.environ.copy() == {**os.environ} and len(os.environ) == len(list(os.environ))\n"
        "from unittest import mock\n"
        "with mock.patch.dict(os.environ, {'NEW': '2'}):\n    assert os.environ['NEW'] == '2'\n"
        "assert 'NEW' not in os.environ and (os.environ | {'Z': '1'})['Z'] == '1'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


# What is kept of the process ---------------------------------------------------------------------------------------------


def test_the_header_holds_flags_umask_limits_and_numeric_variables(tmp_path: Path) -> None:
    project = Project(tmp_path / "p", git=True)
    (project.root / "train.py").write_text("import flor_dagster as flor\nflor.log('x', 1)\n")
    from tests.recording.record_lab import environment

    subprocess.run(
        [sys.executable, "-O", "-X", "dev", "-W", "ignore::UserWarning", "train.py", "--password=pa55-word"],
        cwd=project.root, env=environment(OPENBLAS_CORETYPE="Haswell", NVIDIA_API_KEY="nv-secret-1"), check=True,
        preexec_fn=lambda: os.umask(0o027),
    )  # fmt: skip
    header = json.loads(project.journals[0].read_text().splitlines()[0])[2]
    assert header["variables"]["OPENBLAS_CORETYPE"] == "Haswell"
    assert "NVIDIA_API_KEY" not in header["variables"]
    assert header["process"]["flags"]["optimize"] == 1
    options = header["process"]["options"]
    assert options[0] == "-O"
    assert options[1:3] == ["-X", "dev"]
    assert options[-1] == "ignore::UserWarning"
    assert header["process"]["umask"] == 0o027
    assert header["argv"] == ["train.py", "--password=***"]
    assert "pa55-word" not in project.journals[0].read_text()


def test_the_libraries_are_asked_what_they_use_and_never_imported(tmp_path: Path) -> None:
    source = "import flor_dagster as flor\n{more}\nfor i in flor.loop('epoch', range(1)):\n    flor.log('x', i)\nimport sys\nflor.log('loaded', 'numpy' in sys.modules)\n"
    project = Project(tmp_path / "p", git=True)
    bare = project.run(source.format(more=""))
    assert "numpy" not in bare.of("i")[0][1]["kernels"]
    assert bare.records()[-1][2] is False
    run = project.run(source.format(more="import numpy"), OPENBLAS_NUM_THREADS="1")
    kernels = run.of("i")[0][1]["kernels"]
    assert kernels["numpy"]
    blas = [pool for pool in kernels.get("pools", ()) if "openblas" in pool["name"]]
    if blas:  # another build of numpy has another BLAS
        assert blas[0]["threads"] == 1
        assert blas[0]["kernel"]
