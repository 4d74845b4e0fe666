"""Likely secrets: how they are told by name and by look, and how texts that hold them are masked.

A list of looks is no proof: what no name and no form gives away is not recognised. The forms are those that their issuers
document (GitHub, GitLab, Slack, OpenAI, Hugging Face, AWS, Google, npm, PyPI, JSON Web Tokens, PEM), and URLs with a password.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MASK = "***"

SECRETS = "FLOR_SECRETS"
"""Tells a replay's child, in its environment, the secrets of its command line and arguments as JSON: no file holds them."""

MIN_LENGTH = 6
"""Shorter values are not looked for in texts: they would be found everywhere."""

# Patterns are compiled when they are first needed: importing this package must stay cheap.
_WORDS = r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+"
_SECRET_WORDS = frozenset(
    {
        "password", "passwd", "passphrase", "passcode", "pass", "pwd", "secret", "secrets", "token", "apikey", "credential",
        "credentials", "creds", "auth", "authorization", "bearer", "jwt", "pat", "cookie", "dsn", "privatekey", "accesskey",
        "secretkey", "netrc", "otp", "sas", "pw", "dbpass", "userpass", "salt", "webhook", "passkey", "mnemonic", "connstr",
    }
)  # fmt: skip
_KEY_BEFORE = frozenset(
    {
        "api", "access", "secret", "private", "auth", "encryption", "signing", "ssh", "account", "service", "storage", "subscription",
        "license", "master", "app", "application", "client", "deploy", "session", "shared", "gpg", "rsa", "aws", "azure", "openai",
        "wandb", "comet", "neptune", "anthropic", "hf", "huggingface", "cohere", "gemini", "google", "kaggle", "github", "gitlab",
    }
)  # fmt: skip
_AFTER_TOKEN = frozenset(
    {"pattern", "regex", "dim", "id", "ids", "len", "length", "size", "count", "type", "limit", "budget", "dropout", "embedding", "mixing", "idx", "index"}
)  # fmt: skip
_BEFORE_TOKEN = frozenset(
    {"max", "min", "num", "n", "per", "cls", "pad", "mask", "eos", "bos", "unk", "sep", "special", "next", "image", "first", "last", "end", "start"}
)  # fmt: skip

_PAIR = (
    r"\b(\w*(?:password|passwd|passphrase|pwd|secret|token|api_?key|accountkey|sharedaccesskey))"
    r"((?:%22|[\"'])?\s*[=:]\s*(?:%22|[\"'])?)([^\s;&,\"']{4,})"
)
"""A name of a secret, and its value: `password=…`, `token:…`, `"api_key": "…"`."""
_CREDENTIAL = (
    r"://[^/\s:@]*:[^/\s@]+@"  # a URL with a password
    r"|\b(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abeoprs]-[\w-]{10,}|sk-[\w-]{16,}|hf_[A-Za-z0-9]{16,}"
    r"|(AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}|ya29\.[\w-]{16,}|eyJ[\w-]{10,}\.[\w-]{6,}|dckr_pat_[\w-]{16,}|npm_[A-Za-z0-9]{20,}"
    r"|pypi-AgE[\w-]{16,}|SG\.[\w-]{16,}|[rsp]k_(live|test)_\w{10,}|dapi[0-9a-f]{32})"
    r"|\bauthorization\W{1,6}\w+\s+\S{8,}|\bbearer\s+\S{12,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|" + _PAIR
)
_PLAIN = r"[\w.,:;+@%=/~ \[\](){}*<>^!?|&'\"#-]*"


@functools.lru_cache(4096)
def secret_name(name: str) -> bool:
    """Whether a variable, an option or an argument of that name likely holds a secret: `HF_TOKEN`, `--api-key`, `dbPassword`."""
    words = [word.lower() for word in re.findall(_WORDS, name)]
    for number, word in enumerate(words):
        before = words[number - 1] if number else ""
        after = words[number + 1] if number + 1 < len(words) else ""
        if word == "token":
            if after not in _AFTER_TOKEN and before not in _BEFORE_TOKEN:
                return True
        elif word == "pwd":
            if len(words) > 1:  # PWD itself is the working directory
                return True
        elif word in ("pass", "pat", "auth", "sas", "secret", "secrets", "cookie"):
            if after not in (
                "rate",
                "through",
                "count",
                "or",
                "mode",
                "type",
                "method",
                "backend",
                "enabled",
                "url",
            ) and (word != "pass" or len(words) > 1):
                return True
        elif word == "pin":
            if not after and (number or name.isupper()):  # PIN, CARD_PIN; no pin_memory
                return True
        elif word == "connection":
            if after in ("string", "str"):
                return True
        elif (
            word in _SECRET_WORDS
            or word.endswith(("password", "passwd", "passphrase", "apikey", "secretkey"))
            or (word in ("key", "keys") and before in _KEY_BEFORE)
        ):
            return True
    return False


def is_secret(name: str, value: str) -> bool:
    """Whether a text of that name is a likely secret; what is shorter than `MIN_LENGTH` is none."""
    return len(value) >= MIN_LENGTH and (secret_name(name) or looks_like_credential(value))


def masked_pairs(text: str) -> str:
    """A text without the values that stand behind a name of a secret: `Namespace(password='…')`."""
    return re.sub(_PAIR, rf"\1\2{MASK}", text, flags=re.IGNORECASE)


def looks_like_credential(value: str) -> bool:
    """Whether a value has the form of a secret: an issuer's token, a private key, a URL with a password."""
    return re.search(_CREDENTIAL, value, re.IGNORECASE) is not None


def looks_random(value: str) -> bool:
    """Whether a value looks drawn at random, as keys are: long hexadecimal, or letters and digits of high entropy."""
    for word in re.split(r"[\s,:;=@/]+", value):
        if len(word) >= 32 and re.fullmatch(r"[0-9a-fA-F-]+", word):
            return True
        mixed = (
            any(c.isdigit() for c in word)
            and any(c.isupper() for c in word)
            and any(c.islower() for c in word)
        )
        if len(word) >= 20 and mixed and _entropy(word) > 3.8:
            return True
    return False


def _entropy(text: str) -> float:
    """Shannon entropy of a text's characters, in bits each."""
    counts = [text.count(c) for c in set(text)]
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts)


def is_plain(name: str, value: str) -> bool:
    """Whether a value may be kept in plain text: short, of ordinary characters, and no likely secret by name or look."""
    return (
        len(value) <= 256
        and re.fullmatch(_PLAIN, value) is not None
        and not secret_name(name)
        and not looks_like_credential(value)
        and (_is_digest(name) or not looks_random(value))
    )


def _is_digest(name: str) -> bool:
    """Whether a variable of that name holds a digest or an id, which looks random and is no secret."""
    words = {word.lower() for word in re.findall(_WORDS, name)}
    return not words.isdisjoint(
        {"sha", "md5", "hash", "digest", "checksum", "commit", "revision", "rev", "uuid", "etag", "id"}
    )


# Digests ----------------------------------------------------------------------------------------------------------------

KEY_FILE = "key"


def project_key(home: Path) -> bytes:
    """The key of a project's digests, made when it is first asked for: 32 random bytes that only its owner can read.

    With it, equal values can be told; without it, a digest gives nothing away, not even of a value that is easily guessed.

    Raises:
        OSError: it can't be read or made.
    """
    path = home / KEY_FILE
    with contextlib.suppress(FileNotFoundError):
        key = path.read_bytes()
        if len(key) == 32:
            return key
    temporary = path.with_name(f".{KEY_FILE}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, os.urandom(32))
    finally:
        os.close(fd)
    try:
        os.link(temporary, path)  # whoever comes first has made it
    except FileExistsError:
        if path.stat().st_size != 32:
            temporary.replace(path)
    except OSError:
        temporary.replace(path)  # a file system without links
    temporary.unlink(missing_ok=True)
    return path.read_bytes()


def keyed_digest(key: bytes, value: str) -> str:
    """A value's digest under a project's key: 32 hexadecimal digits."""
    return hashlib.blake2b(os.fsencode(value), key=key, digest_size=16).hexdigest()


# Command lines ----------------------------------------------------------------------------------------------------------

_OPTION = r"(-{1,2}|\+{1,2})?([A-Za-z][\w.-]*)(=)?(.*)"


@dataclass(frozen=True, slots=True)
class MaskedArgument:
    """A likely secret of a command line: the argument's number, the name that it is asked by, and its value."""

    number: int
    name: str
    value: str


def secret_arguments(argv: Sequence[str]) -> tuple[MaskedArgument, ...]:
    """The likely secrets of a command line: `--api-key=VALUE`, `--password VALUE`, `api_key=VALUE`, `https://user:word@…`.

    Args:
        argv: as `sys.argv`; the first one is the program.
    """
    found: list[MaskedArgument] = []
    pending = ""
    for number, text in enumerate(argv[1:], 1):
        match = re.fullmatch(_OPTION, text, re.DOTALL)
        if pending and not (text.startswith("-") and len(text) > 1 and not looks_like_credential(text)):
            found.append(MaskedArgument(number, pending, text))
            pending = ""
            continue
        pending = ""
        if match is not None and match[3] and (secret_name(match[2]) or looks_like_credential(match[4])):
            found.append(MaskedArgument(number, match[2], match[4]))
        elif match is not None and match[1] and not match[3] and not match[4] and secret_name(match[2]):
            pending = match[2]
        elif looks_like_credential(text):
            option = re.fullmatch(_OPTION, argv[number - 1]) if number > 1 else None
            named = option is not None and option[1] and not option[3] and not option[4]
            found.append(
                MaskedArgument(number, option[2] if option and named else f"argument-{number}", text)
            )
    return tuple(one for one in found if one.value)


def masked_argv(argv: Sequence[str], secrets: Iterable[MaskedArgument]) -> list[str]:
    """A command line without its secrets."""
    masked = list(argv)
    for one in secrets:
        masked[one.number] = masked[one.number].removesuffix(one.value) + MASK
    return masked


def unmasked_argv(argv: Sequence[str], values: Mapping[int, str]) -> list[str]:
    """A command line with its secrets: argument's number → value."""
    whole = list(argv)
    for number, value in values.items():
        whole[number] = whole[number].removesuffix(MASK) + value
    return whole


def masked_names(value: Any) -> dict[str, str]:
    """The likely secrets of a value of the journal, anywhere in it: their names, and their digests."""
    found: dict[str, str] = {}
    if isinstance(value, dict):
        if value.get("$") == "masked":
            return dict(value["names"])
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            found |= masked_names(part)
    return found


# Texts ------------------------------------------------------------------------------------------------------------------


class Masker:
    """Masks known secrets in texts.

    Args:
        values: the secrets; those shorter than `MIN_LENGTH` are left alone.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: tuple[str, ...] = ()
        self._pattern: re.Pattern[str] | None = None
        self.add(*values)

    def add(self, *values: str) -> None:
        """Mask these, too."""
        fresh = {v for v in values if len(v) >= MIN_LENGTH} - set(self._values)
        if fresh:
            # The longest first: one may be a part of another.
            self._values = tuple(sorted({*self._values, *fresh}, key=lambda v: (-len(v), v)))
            self._pattern = re.compile("|".join(map(re.escape, self._values)))

    def __bool__(self) -> bool:
        """Whether there is anything to mask."""
        return self._pattern is not None

    def finds(self, text: str) -> bool:
        """Whether a text holds one."""
        return self._pattern is not None and self._pattern.search(text) is not None

    def __call__(self, text: str) -> str:
        """The text without the secrets, and without what has the form of one."""
        if self._pattern is not None:
            text = self._pattern.sub(MASK, text)
        if "://" in text and "@" in text:
            text = re.sub(r"(://[^/\s:@]*:)[^/\s@]+@", rf"\1{MASK}@", text)
        return text


def masked_lines(told: Callable[[str], None] | None, mask: Masker) -> Callable[[str], None] | None:
    """What is told of each line, told of it without its secrets."""
    return None if told is None else lambda line: told(mask(line))


def masker_of(environment: Mapping[str, str], late: Mapping[str, str]) -> Masker:
    """Masks what a process that is started with this environment may print of its secrets.

    Args:
        environment: its environment.
        late: what is added to it, with `SECRETS` among it.
    """
    given: dict[str, str] = json.loads(late.get(SECRETS, "{}"))
    return Masker([*secrets_of(environment).values(), *given.values()])


def secrets_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that are likely secrets."""
    return {name: v for name, v in environment.items() if secret_name(name) or looks_like_credential(v)}


class KnownSecrets:
    """The likely secrets that this process knows by name: of its environment, its command line, its arguments.

    States and records are kept without them: in the place of each stands its name. A replay that is given them puts them
    back there.
    """

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self.mask = Masker()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._names)

    def add(self, named: Mapping[str, str]) -> None:
        """Know these, too; what is too short, or an ordinary word, number or path, is not looked for."""
        self.values |= named
        for name, value in named.items():
            if value in self._names or not _is_telling(value):
                continue
            for form, text in _forms(value).items():
                self._names.setdefault(text, f"{name}{_FORM}{form}" if form else name)
                self.mask.add(text)

    def named(self, text: str) -> str | None:
        """A text with the names in the places of the secrets, each between two NUL characters; None where it holds none."""
        if "\0" in text or not self.mask.finds(text):
            return None
        for value in sorted(self._names, key=len, reverse=True):
            text = text.replace(value, f"\0{self._names[value]}\0")
        return text

    def unnamed(self, text: str) -> str:
        """A text of `named` with the secrets back in their places.

        Raises:
            KeyError: one of them is not known here.
        """
        parts = text.split("\0")
        return "".join(self._value(part) if number % 2 else part for number, part in enumerate(parts))

    def unnamed_or_masked(self, text: str) -> str:
        """The same, with a mask in the place of each that is not known here."""
        parts = text.split("\0")
        known = (
            not number % 2 or part.partition(_FORM)[0] in self.values for number, part in enumerate(parts)
        )
        return "".join(
            part if not number % 2 else self._value(part) if there else MASK
            for number, (part, there) in enumerate(zip(parts, known, strict=True))
        )

    def _value(self, part: str) -> str:
        name, _, form = part.partition(_FORM)
        return _forms(self.values[name]).get(form, "")


_FORM = "\x01"
"""Between the name of a secret and the form in which it stands in a text."""


def _forms(value: str) -> dict[str, str]:
    """How a secret may stand in a text: as it is, and as `repr`, JSON, a URL or an authorization header write it."""
    import base64
    from urllib.parse import quote

    encoded = value.encode("utf-8", "surrogatepass")
    forms = {
        "": value,
        "repr": repr(value)[1:-1],
        "json": json.dumps(value)[1:-1],
        "url": quote(encoded, safe=""),
        "hex": encoded.hex(),
    } | {
        # A part of a longer text (`user:password`) is written in one of three ways.
        f"base64+{k}": base64.b64encode(bytes(k) + encoded).decode("ascii")[
            -(-8 * k // 6) : 8 * (k + len(encoded)) // 6
        ]
        for k in range(3)
    }
    return {form: text for form, text in forms.items() if not form or text != value}


def _is_telling(value: str) -> bool:
    """Whether a secret is long and odd enough to be looked for in other texts."""
    return (
        len(value) >= MIN_LENGTH
        and not value.isalpha()
        and not value.startswith("/")
        and not re.fullmatch(r"[\d.,:+-]+", value)
    )


known_secrets = KnownSecrets()
"""Those of this process."""
