"""Real public training scripts, asked in hindsight: are the values those that the training saw, and what do they cost?

Each script is instrumented by adding flor lines only, and trained once. It records a value at each place of interest
under a name that begins with `truth_`. The newest version then logs the same expression beside it, under another name,
and hindsight has to find that value in the old run: both columns must be equal, bit for bit, at every loop context.
That holds for unseeded scripts too.

    python benchmarks/public.py --mirrors DIR [--only nanogpt] [--keep DIR]

DIR holds bare clones named OWNER+NAME/repo, or OWNER/NAME.git, of karpathy/nanoGPT, pytorch/examples and
eriklindernoren/PyTorch-GAN. No code of theirs lies here: the anchors below name the lines that the flor lines go to.
Needs torch. PyTorch-GAN's script imports torchvision for MNIST; a stand-in with made-up digits takes its place.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Edit:
    """Flor lines put in place of, before or behind the one line that begins with `anchor`.

    `{line}` in `lines` is the line itself, with its indentation; the others get its indentation, plus `deeper` spaces.
    """

    anchor: str
    lines: tuple[str, ...]
    deeper: int = 0


@dataclass(frozen=True)
class Asked:
    """A statement of the newest version, beside the line that logs its `truth_` counterpart."""

    name: str
    level: str


@dataclass(frozen=True)
class Case:
    repository: str
    folder: str
    files: tuple[str, ...]
    script: str
    arguments: tuple[str, ...]
    edits: tuple[Edit, ...]
    asked: tuple[Asked, ...]
    prepare: Callable[[Path], None] = lambda _: None
    ignored: tuple[str, ...] = field(default=())


IMPORT = "import flor_dagster as flor"


def both(name: str, expression: str) -> str:
    """The line of the first version; the second one gets its twin beside it."""
    return f'flor.log("truth_{name}", {expression})'


def text(folder: Path) -> None:
    """A small character set in place of the Shakespeare text, prepared as the repository's own script does it."""
    rng = random.Random(1)
    words = ["the", "king", "and", "queen", "of", "night", "shall", "speak", "no", "more", "what", "light"]
    written = " ".join(rng.choice(words) + rng.choice(["", "", ",", ".\n"]) for _ in range(30_000))
    letters = sorted(set(written))
    numbers = {letter: number for number, letter in enumerate(letters)}
    data = folder / "data" / "chars"
    data.mkdir(parents=True)
    cut = int(len(written) * 0.9)
    for name, part in (("train", written[:cut]), ("val", written[cut:])):
        (data / f"{name}.bin").write_bytes(struct.pack(f"<{len(part)}H", *(numbers[c] for c in part)))
    letters_by_number = dict(enumerate(letters))
    (data / "meta.pkl").write_bytes(
        pickle.dumps({"vocab_size": len(letters), "itos": letters_by_number, "stoi": numbers})
    )


def words(folder: Path) -> None:
    """A small text in place of wikitext-2."""
    rng = random.Random(2)
    vocabulary = [f"w{number}" for number in range(300)]
    data = folder / "data" / "small"
    data.mkdir(parents=True)
    for name, lines in (("train", 900), ("valid", 90), ("test", 90)):
        (data / f"{name}.txt").write_text(
            "\n".join(" ".join(rng.choices(vocabulary, k=12)) for _ in range(lines))
        )


def waves(folder: Path) -> None:
    """Shorter and fewer sine waves than `generate_sine_wave.py` makes."""
    import numpy as np
    import torch

    begins = np.random.default_rng(2).integers(-80, 80, (20, 1))
    torch.save(np.sin((np.arange(120) + begins) / 20), folder / "traindata.pt")


STAND_IN = {
    "torchvision/__init__.py": "",
    "torchvision/utils.py": "def save_image(images, path, **options):\n    open(path, 'wb').write(images.numpy().tobytes())\n",
    "torchvision/transforms.py": (
        "def Compose(steps):\n    return None\n\n\ndef Resize(size):\n    return None\n\n\ndef ToTensor():\n    return None\n\n\n"
        "def Normalize(mean, std):\n    return None\n"
    ),
    "torchvision/datasets.py": (
        "import torch\nfrom torch.utils.data import TensorDataset\n\n\n"
        "def MNIST(root, train, download, transform):\n    digits = torch.Generator().manual_seed(7)\n"
        "    images = torch.rand(2048, 1, 28, 28, generator=digits) * 2 - 1\n"
        "    return TensorDataset(images, torch.randint(10, (2048,), generator=digits))\n"
    ),
}


def digits(folder: Path) -> None:
    for name, content in STAND_IN.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)


CASES = {
    "nanogpt": Case(
        repository="karpathy/nanoGPT",
        folder="",
        files=("train.py", "model.py", "configurator.py"),
        script="train.py",
        arguments=(
            "--dataset=chars", "--device=cpu", "--compile=False", "--dtype=float32", "--eval_interval=20", "--eval_iters=4",
            "--batch_size=8", "--block_size=32", "--n_layer=2", "--n_head=2", "--n_embd=64", "--dropout=0.1",
            "--max_iters=120", "--lr_decay_iters=120", "--warmup_iters=10", "--gradient_accumulation_steps=2",
        ),
        edits=(
            Edit("import os", (IMPORT, "{line}")),
            Edit("while True:", ('for _ in flor.loop("iter", range(max_iters + 1)):',)),
            Edit(
                "    for micro_step in range(gradient_accumulation_steps):",
                ('for micro_step in flor.loop("micro", range(gradient_accumulation_steps)):',),
            ),
            Edit(
                "        scaler.scale(loss).backward()",
                ("{line}", 'flor.log("micro_loss", loss)', both("wte", "raw_model.transformer.wte.weight.grad.norm()")),
            ),
            Edit("    scaler.step(optimizer)", ("{line}", both("head", "raw_model.lm_head.weight.double().sum()"))),
            Edit("    local_iter_num += 1", ("{line}", 'flor.log("iter_num", iter_num)')),
        ),
        asked=(Asked("head", "outside the inner loop"), Asked("wte", "in the inner loop")),
        prepare=text,
        ignored=("data", "out"),
    ),
    "language-model": Case(
        repository="pytorch/examples",
        folder="word_language_model",
        files=("main.py", "data.py", "model.py"),
        script="main.py",
        arguments=(
            "--data", "data/small", "--epochs", "6", "--emsize", "48", "--nhid", "48", "--dropout", "0.2", "--batch_size", "20",
        ),
        edits=(
            Edit("import argparse", (IMPORT, "{line}")),
            Edit("    for epoch in range(1, args.epochs+1):", ('for epoch in flor.loop("epoch", range(1, args.epochs+1)):',)),
            Edit(
                "    for batch, i in enumerate(range(0, train_data",
                ('for batch, i in enumerate(flor.loop("batch", range(0, train_data.size(0) - 1, args.bptt))):',),
            ),
            Edit("        total_loss += loss.item()", (
                "{line}", 'flor.log("loss", loss)', both("decoder", "model.decoder.weight.grad.abs().max()"),
            )),
            Edit("        val_loss = evaluate(val_data)", ("{line}", 'flor.log("val_loss", val_loss)', both(
                "encoder", "model.encoder.weight.double().norm()",
            ))),
        ),
        asked=(Asked("encoder", "outside the inner loop"), Asked("decoder", "in the inner loop")),
        prepare=words,
        ignored=("data", "model.pt"),
    ),
    "lbfgs": Case(
        repository="pytorch/examples",
        folder="time_sequence_prediction",
        files=("train.py",),
        script="train.py",
        arguments=("--steps", "3"),
        edits=(
            Edit("import argparse", (IMPORT, "{line}")),
            # The script is older than torch's refusal to unpickle arrays by default.
            Edit("    data = torch.load(", ("data = torch.load('traindata.pt', weights_only=False)",)),
            Edit("    for i in range(opt.steps):", ('for i in flor.loop("step", range(opt.steps)):',)),
            Edit("            print('test loss:', loss.item())", ("{line}", 'flor.log("test_loss", loss)')),
            Edit("        optimizer.step(closure)", ("{line}", both("linear", "seq.linear.weight.norm()"))),
        ),
        asked=(Asked("linear", "in a flat loop"),),
        prepare=waves,
        ignored=("traindata.pt", "*.pdf"),
    ),
    "regression": Case(
        repository="pytorch/examples",
        folder="regression",
        files=("main.py",),
        script="main.py",
        arguments=(),
        edits=(
            Edit("import torch", (IMPORT, "{line}")),
            Edit("for batch_idx in count(1):", ('for batch_idx in flor.loop("batch", count(1)):',)),
            Edit("    loss = output.item()", ("{line}", 'flor.log("loss", loss)')),
            Edit("    output.backward()", ("{line}", both("grad", "fc.weight.grad.norm()"))),
        ),
        asked=(Asked("grad", "in a flat loop"),),
    ),
    "wgan": Case(
        repository="eriklindernoren/PyTorch-GAN",
        folder="implementations/wgan_gp",
        files=("wgan_gp.py",),
        script="wgan_gp.py",
        arguments=("--n_epochs", "4"),
        edits=(
            Edit("import argparse", (IMPORT, "{line}")),
            Edit("for epoch in range(opt.n_epochs):", ('for epoch in flor.loop("epoch", range(opt.n_epochs)):',)),
            Edit(
                "    for i, (imgs, _) in enumerate(dataloader):",
                (
                    both("bias", "discriminator.model[0].bias.double().sum()"),
                    'for i, (imgs, _) in enumerate(flor.loop("batch", dataloader)):',
                ),
            ),
            Edit("        d_loss.backward()", (
                "{line}", 'flor.log("d_loss", d_loss)', both("penalty", "gradient_penalty * lambda_gp"),
            )),
        ),
        asked=(Asked("bias", "outside the inner loop"), Asked("penalty", "in the inner loop")),
        prepare=digits,
        ignored=("images",),
    ),
}  # fmt: skip


def blob(mirrors: Path, repository: str, path: str) -> str:
    """A file of a bare clone, as text."""
    owner, _, name = repository.partition("/")
    clone = next(
        (p for p in (mirrors / f"{owner}+{name}" / "repo", mirrors / owner / f"{name}.git") if p.is_dir()),
        None,
    )
    if clone is None:
        raise SystemExit(f"There is no bare clone of {repository} in {mirrors}.")
    shown = subprocess.run(["git", "-C", str(clone), "show", f"HEAD:{path}"], check=True, capture_output=True)
    return shown.stdout.decode()


def instrument(source: str, edits: tuple[Edit, ...]) -> str:
    lines = source.split("\n")
    for edit in edits:
        places = [number for number, line in enumerate(lines) if line.startswith(edit.anchor)]
        if not places:
            raise SystemExit(f"No line begins with {edit.anchor!r}: the repository has changed.")
        number = places[0]
        indent = re.match(r"\s*", lines[number]).group() + " " * edit.deeper  # type: ignore[union-attr]
        put = [lines[number] if line == "{line}" else indent + line for line in edit.lines]
        lines[number : number + 1] = put
    return "\n".join(lines)


def ask_too(source: str) -> str:
    """The newest version: behind each `truth_` line the same expression under its own name."""
    out: list[str] = []
    for line in source.split("\n"):
        out.append(line)
        if 'flor.log("truth_' in line:
            out.append(line.replace('"truth_', '"'))
    return "\n".join(out)


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def flor(folder: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "flor_dagster.cli", *arguments, "--json"],
        cwd=folder, capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise SystemExit(f"flor {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}") from None


def environment() -> dict[str, str]:
    parts = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(parts)}


def try_case(name: str, case: Case, mirrors: Path, folder: Path) -> bool:
    """Train, ask, compare; a line per statement. Whether every value was right or refused."""
    folder.mkdir()
    for file in case.files:
        source = blob(mirrors, case.repository, f"{case.folder}/{file}".lstrip("/"))
        (folder / file).write_text(instrument(source, case.edits) if file == case.script else source)
    case.prepare(folder)
    (folder / ".gitignore").write_text("".join(f"{pattern}\n" for pattern in ("__pycache__", *case.ignored)))
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "Train")
    plain = time.perf_counter()
    done = subprocess.run(
        [sys.executable, case.script, *case.arguments], cwd=folder, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    trained = time.perf_counter() - plain
    if done.returncode:
        raise SystemExit(f"{name} did not train:\n{done.stderr[-3000:]}")
    (folder / case.script).write_text(ask_too((folder / case.script).read_text()))
    git(folder, "commit", "-qam", "Ask")
    good = True
    for asked in case.asked:
        begin = time.perf_counter()
        answer = flor(folder, "hindsight", asked.name)
        seconds = time.perf_counter() - begin
        if "cells" not in answer:
            print(f"{name:16} {asked.level:24} {asked.name:9} {answer}")
            good = False
            continue
        cell = answer["cells"][0]["cell"]
        view = flor(folder, "view", f"truth_{asked.name}", asked.name)
        pairs = [(row[f"truth_{asked.name}"], row[asked.name]) for row in view["rows"]]
        wrong = sum(truth is not None and found != truth for truth, found in pairs)
        missing = sum(found is None for _, found in pairs)
        right = cell["fidelity"] == "exact" and not wrong and not missing and bool(pairs)
        good &= right or cell["status"] in ("refused", "failed")
        print(
            f"{name:16} {asked.level:24} {asked.name:9} {cell['status']:9} {cell['fidelity'] or '':11}"
            f"{len(pairs):6} values, {wrong} wrong, {missing} missing   trained {trained:6.1f} s, asked {seconds:6.1f} s"
            + ("" if cell["status"] == "replayed" else f"\n    {cell['sentence']}"),
            flush=True,
        )
        good &= not (cell["fidelity"] == "exact" and wrong)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mirrors", type=Path, help="folder of bare clones")
    parser.add_argument("--only", nargs="*", choices=sorted(CASES), help="only these scripts")
    parser.add_argument("--keep", type=Path, help="a new folder to work in, kept afterwards")
    chosen = parser.parse_args()
    if chosen.mirrors is None:
        print("Skipped: --mirrors DIR names the folder of bare clones that this benchmark needs.")
        return
    work = chosen.keep or Path(tempfile.mkdtemp(prefix="flor-public-"))
    work.mkdir(exist_ok=True)
    try:
        results = [
            try_case(name, CASES[name], chosen.mirrors, work / name) for name in chosen.only or sorted(CASES)
        ]
    finally:
        if chosen.keep is None:
            shutil.rmtree(work, ignore_errors=True)
    raise SystemExit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
