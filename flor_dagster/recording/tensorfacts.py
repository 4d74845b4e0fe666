"""What a walk asks of tensors, asked of many at once: are they what they were, on whatever memory?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import attrgetter, is_not
from typing import Any

from flor_dagster.recording import shape

_attributes = object.__getattribute__
_form = attrgetter("dtype", "device", "layout", "requires_grad", "shape", *shape.HOOKS)
_graph = attrgetter("grad_fn")
_gradient = attrgetter("grad")
_identity = attrgetter("_cdata")
_CONSTANT = (type(None), bool, int, str)


class OtherTensors(Exception):  # noqa: N818 - a signal to walk everything, not an error for anyone
    """They are not what they were."""


def is_ordinary(tensor: Any) -> bool:
    """Whether all that there is to know of a tensor is asked here: on the host, dense, without hooks."""
    torch: Any = sys.modules["torch"]
    if type(tensor) is not torch.Tensor and type(tensor) is not torch.nn.Parameter:
        return False
    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        return False
    attributes = _attributes(tensor, "__dict__")
    return (
        not tensor.is_quantized and not tensor.dtype.is_complex and not tensor.is_neg()
        and all(getattr(tensor, name) is None for name in shape.HOOKS)
        and all(type(v) in _CONSTANT for v in attributes.values()) and "_flor_without_graph" not in attributes
    )  # fmt: skip


@dataclass(slots=True)
class TensorFacts:
    """The facts of the tensors of a plan, in the order in which they are met.

    Args:
        storages: the nodes of their storages, in the order in which they are met.
    """

    storages: list[int] = field(default_factory=list[int])
    _forms: list[Any] = field(default_factory=list[Any])
    _strides: list[Any] = field(default_factory=list[Any])
    _offsets: list[int] = field(default_factory=list[int])
    _attributes: list[Any] = field(default_factory=list[Any])
    _storage_of: list[int] = field(default_factory=list[int])
    _sizes: list[int] = field(default_factory=list[int])
    _resizable: list[bool] = field(default_factory=list[bool])
    _places: dict[int, int] = field(default_factory=dict[int, int])
    _plain: bool = True

    def add(self, tensor: Any, storage: int) -> None:
        """Note an ordinary tensor and the node of its storage."""
        attributes = _constants(_attributes(tensor, "__dict__"))
        self._plain = self._plain and not attributes
        self._forms.append(_form(tensor))
        self._strides.append(tensor.stride())
        self._offsets.append(tensor.storage_offset())
        self._attributes.append(attributes)
        memory = tensor.untyped_storage()
        place = self._places.setdefault(storage, len(self._places))
        if place == len(self.storages):
            self.storages.append(storage)
        self._storage_of.append(place)
        self._sizes.append(memory.nbytes())
        self._resizable.append(memory.resizable())

    @property
    def foreign(self) -> bool:
        """Whether some of the memory belongs to something else."""
        return not all(self._resizable)

    def gradients(self, tensors: Sequence[Any]) -> list[Any]:
        """The gradients of some of them.

        Raises:
            OtherTensors: one of them is no leaf any more.
        """
        if any(map(is_not, map(_graph, tensors), repeat(None))):
            raise OtherTensors
        return list(map(_gradient, tensors))

    def check_graphs(self, tensors: Sequence[Any]) -> None:
        """Ask whether some of them still are results of a computation.

        Raises:
            OtherTensors: one of them is a leaf now.
        """
        if not all(map(is_not, map(_graph, tensors), repeat(None))):
            raise OtherTensors

    def compare(self, tensors: Sequence[Any]) -> tuple[list[Any], list[int]]:
        """Ask them all.

        Args:
            tensors: as many as were added, of the same types, in the same order.

        Returns:
            The storages, each once, and their addresses.

        Raises:
            OtherTensors: they are not what they were.
        """
        if not tensors:
            return [], []
        kind: Any = sys.modules["torch"].Tensor
        if list(map(_form, tensors)) != self._forms or list(map(kind.stride, tensors)) != self._strides:
            raise OtherTensors
        if list(map(kind.storage_offset, tensors)) != self._offsets or any(map(kind.is_neg, tensors)):
            raise OtherTensors
        own = map(_attributes, tensors, repeat("__dict__"))
        if any(own) if self._plain else list(map(_constants, own)) != self._attributes:
            raise OtherTensors
        memories = list(map(kind.untyped_storage, tensors))
        memory: Any = type(memories[0])
        if list(map(memory.nbytes, memories)) != self._sizes:
            raise OtherTensors
        if list(map(memory.resizable, memories)) != self._resizable:
            raise OtherTensors
        storages = self._one_of_each(memories)
        return storages, list(map(memory.data_ptr, storages))

    def storages_of(self, tensors: Sequence[Any]) -> list[Any]:
        """The storages of as many tensors as were added, each once.

        Raises:
            OtherTensors: other ones share theirs.
        """
        if not tensors:
            return []
        return self._one_of_each(list(map(sys.modules["torch"].Tensor.untyped_storage, tensors)))

    def _one_of_each(self, memories: list[Any]) -> list[Any]:
        storages: list[Any] = []
        numbers = list(map(_identity, memories))
        if len(self.storages) == len(memories):
            if len(set(numbers)) != len(numbers):
                raise OtherTensors
            storages = memories
        else:
            first: dict[int, int] = {}
            for number, place, found in zip(numbers, self._storage_of, memories, strict=True):
                if first.setdefault(number, place) != place:
                    raise OtherTensors
                if place == len(storages):
                    storages.append(found)
            if len(first) != len(self.storages):
                raise OtherTensors
        return storages


def have_constants(tensors: Sequence[Any]) -> bool:
    """Whether the attributes of tensors are no objects."""
    own = list(map(_attributes, tensors, repeat("__dict__")))
    return not any(own) or all(type(v) in _CONSTANT for attributes in own for v in attributes.values())


def _constants(attributes: dict[str, Any]) -> tuple[Any, ...]:
    return tuple((name, type(value), value) for name, value in attributes.items())
