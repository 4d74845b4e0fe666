"""A training on a device goes on bit for bit from a checkpoint; where there is no such device, on the processor alone."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the torch end states are not tested")

from flor_dagster.recording.generators import global_generators  # noqa: E402
from tests.recording.state_lab import Kept  # noqa: E402

CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: not tried on one")
)
pytestmark = pytest.mark.parametrize("device", ["cpu", CUDA])


class Training:
    """Dropout and data drawn on the device, mixed precision, an optimizer whose state lies there."""

    def __init__(self, device: str) -> None:
        torch.manual_seed(0)
        self.device = device
        self.net = torch.nn.Sequential(
            torch.nn.Linear(8, 32), torch.nn.BatchNorm1d(32), torch.nn.Dropout(0.4), torch.nn.Linear(32, 8)
        ).to(device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), 1e-2)
        self.scaler = torch.amp.GradScaler(device, init_scale=8.0, growth_interval=2)
        self.own = torch.Generator(device).manual_seed(5)

    def epoch(self) -> list[str]:
        losses: list[str] = []
        for _ in range(4):
            x = torch.randn(16, 8, device=self.device) + torch.randn(
                16, 8, device=self.device, generator=self.own
            )
            with torch.autocast(self.device, dtype=torch.bfloat16):
                loss = ((self.net(x) - x) ** 2).float().mean()
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            losses.append(loss.item().hex())
        return losses

    def parts(self) -> dict[str, Any]:
        shared = {
            name.replace(":", "_"): generator
            for name, generator in global_generators().items()
            if name.startswith(("random:torch", "random:cuda"))
        }
        return {**vars(self), **shared}


def test_a_training_on_a_device_goes_on_bit_for_bit_in_the_same_objects(device: str) -> None:
    training = Training(device)
    training.epoch()
    kept = Kept(**training.parts())
    wanted = [training.epoch(), training.epoch()]
    weight = training.net[0].weight
    kept.put_back(**training.parts())
    assert training.net[0].weight is weight
    assert weight.device.type == device
    assert [training.epoch(), training.epoch()] == wanted


def test_a_fresh_program_on_a_device_goes_on_bit_for_bit(device: str) -> None:
    training = Training(device)
    training.epoch()
    kept = Kept(**training.parts())
    wanted = training.epoch()
    fresh = Training(device)
    kept.put_back(**fresh.parts())
    assert fresh.epoch() == wanted


def test_views_of_one_storage_on_a_device_stay_views(device: str) -> None:
    base = torch.arange(10.0, device=device)
    low, high = base[:5], base[5:]
    kept = Kept(low=low, high=high)
    base.zero_()
    kept.put_back(low=low, high=high)
    assert base.tolist() == list(range(10))
    values = kept.put_back()
    assert values["low"].untyped_storage().data_ptr() == values["high"].untyped_storage().data_ptr()
    assert values["low"].device.type == device
