"""Run a program of several files within this process and keep what it logs."""

from __future__ import annotations

import builtins
import types
from collections.abc import Mapping
from typing import Any


class Recorder:
    """Stands for what the programs import as `flor`: it writes down what is logged."""

    def __init__(self) -> None:
        self.values: list[str] = []

    def log(self, _name: str, value: Any) -> Any:
        self.values.append(repr(value))
        return value


def run(files: Mapping[str, str], entry: str = "train.py") -> list[str] | str:
    """What the program logs, or how it failed."""
    recorder = Recorder()
    loaded: dict[str, types.ModuleType] = {}

    def load(name: str, path: str) -> types.ModuleType:
        module = types.ModuleType(name)
        loaded[name] = module
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": importing}
        exec(compile(files[path], path, "exec", dont_inherit=True), module.__dict__)
        return module

    def importing(name: str, *args: Any, **keywords: Any) -> Any:
        if name == "flor_dagster":
            return recorder
        if f"{name}.py" in files:
            return loaded[name] if name in loaded else load(name, f"{name}.py")
        return __import__(name, *args, **keywords)

    try:
        load("__main__", entry)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return recorder.values
