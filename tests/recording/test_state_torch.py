"""Models, optimizers, schedulers and loaders of torch are put back in place, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the torch end states are not tested")

from tests.recording.state_lab import Kept, capture, why_not  # noqa: E402


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(4, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.drop = torch.nn.Dropout(0.5)
        self.b = torch.nn.Linear(8, 4)
        self.tied = self.a.weight
        self.seen: list[float] = []

    def forward(self, x: Any) -> Any:
        y = self.b(self.drop(torch.relu(self.norm(self.a(x)))))
        self.seen.append(float(y.detach().sum()))
        return y


class Training:
    def __init__(self, optimizer: str) -> None:
        torch.manual_seed(0)
        self.net = Net()
        kinds = {
            "adam": lambda p: torch.optim.Adam(p, amsgrad=True),
            "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
            "rmsprop": lambda p: torch.optim.RMSprop(p),
        }
        self.optimizer = kinds[optimizer](self.net.parameters())
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda e: 0.9**e)
        self.shuffle = torch.Generator().manual_seed(3)
        data = torch.utils.data.TensorDataset(torch.randn(32, 4))
        self.loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, generator=self.shuffle)

    def epoch(self) -> list[float]:
        losses: list[float] = []
        for (x,) in self.loader:
            self.optimizer.zero_grad()
            loss = ((self.net(x) - x) ** 2).mean()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        self.scheduler.step()
        return losses


def parts(training: Training) -> dict[str, Any]:
    return {**vars(training), "default": torch.default_generator}


@pytest.mark.parametrize("kind", ["adam", "sgd", "rmsprop"])
def test_a_training_goes_on_bit_for_bit_in_the_same_objects(kind: str) -> None:
    training = Training(kind)
    training.epoch()
    kept = Kept(**parts(training))
    wanted = [training.epoch(), training.epoch()]
    weight = training.net.a.weight
    values = kept.put_back(**parts(training))
    assert values["net"] is training.net
    assert training.net.a.weight is weight is training.net.tied
    assert any(p is weight for p in training.optimizer.param_groups[0]["params"])
    assert weight in training.optimizer.state
    assert [training.epoch(), training.epoch()] == wanted


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_fresh_program_goes_on_bit_for_bit(kind: str) -> None:
    training = Training(kind)
    training.epoch()
    kept = Kept(**parts(training))
    wanted = training.epoch()
    fresh = Training(kind)
    kept.put_back(**parts(fresh))
    assert fresh.epoch() == wanted


def test_two_views_of_one_storage_are_both_put_back_and_stay_views() -> None:
    base = torch.arange(10.0)
    low, high = base[:5], base[5:]
    kept = Kept(low=low, high=high)
    base.zero_()
    kept.put_back(low=low, high=high)
    assert base.tolist() == list(range(10))
    values = kept.put_back()
    assert values["low"].untyped_storage().data_ptr() == values["high"].untyped_storage().data_ptr()


def test_parameters_that_became_tied_are_tied_again_and_stay_the_same_objects() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    first, second = net[0].weight, net[1].weight
    kept_apart = Kept(net=net)
    second.data = first.data
    kept_tied = Kept(net=net)
    kept_apart.put_back(net=net)
    assert first.data_ptr() != second.data_ptr()
    kept_tied.put_back(net=net)
    assert net[1].weight is second
    assert first.data_ptr() == second.data_ptr()


def test_flags_gradients_and_attributes_of_parameters() -> None:
    net = torch.nn.Linear(2, 2)
    net.weight.tag = [1]
    net.bias.requires_grad_(False)
    net.eval()
    net(torch.ones(1, 2)).sum().backward()
    kept = Kept(net=net)
    net.weight.grad.zero_()
    net.weight.tag.append(2)
    net.bias.requires_grad_(True)
    net.train()
    kept.put_back(net=net)
    assert net.weight.grad.sum() == 4
    assert net.weight.tag == [1]
    assert not net.bias.requires_grad
    assert not net.training


def test_a_value_whose_graph_is_gone_is_a_number_and_refuses_a_backward_pass() -> None:
    from flor_dagster.errors import CheckpointError

    w = torch.ones(2, requires_grad=True)
    loss = (w * 3).sum()
    kept = Kept(loss=loss)
    value = kept.put_back()["loss"]
    assert value.item() == 6.0
    with pytest.raises(CheckpointError, match="backward"):
        (value * 2).backward()


def test_tensors_that_share_memory_with_an_array_are_refused_where_they_would_be_torn_apart() -> None:
    from flor_dagster.errors import CheckpointError

    shared = torch.zeros(4)
    kept = Kept(t=shared, a=shared.numpy())
    with pytest.raises(CheckpointError, match="shares its memory"):
        kept.put_back()
    array = shared.numpy()
    shared.fill_(3)
    kept.put_back(t=shared, a=array)
    assert array.tolist() == [0, 0, 0, 0]


def test_what_a_hook_fills_is_captured() -> None:
    norms: list[float] = []
    net = torch.nn.Linear(2, 2)
    net.register_forward_hook(lambda m, i, o: norms.append(float(o.detach().norm())))
    net(torch.ones(1, 2))
    kept = Kept(net=net)
    net(torch.ones(1, 2))
    kept.put_back(net=net)
    assert len(norms) == 1


@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr", "sparse_csc"])
def test_sparse_tensors_keep_their_layout(layout: str) -> None:
    sparse = torch.eye(3).to_sparse(layout=getattr(torch, layout))
    box = {"it": sparse}
    kept = Kept(box=box)
    box["it"] = sparse * 2
    back = kept.put_back(box=box)["box"]["it"]
    assert back.layout == sparse.layout
    assert torch.equal(back.to_dense(), torch.eye(3))


def test_the_sparse_gradient_of_an_embedding_is_put_back() -> None:
    net = torch.nn.Embedding(5, 2, sparse=True)
    net(torch.tensor([1, 1, 3])).sum().backward()
    wanted = net.weight.grad.to_dense()
    kept = Kept(net=net)
    net.zero_grad()
    kept.put_back(net=net)
    assert torch.equal(net.weight.grad.to_dense(), wanted)
    assert not net.weight.grad.is_coalesced()


def test_pulled_loaders_and_tensors_without_values_are_named() -> None:
    assert "meta tensor" in why_not(it=torch.empty(2, device="meta"))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(3)))
    iterator = iter(loader)
    next(iterator)
    assert why_not(it=iterator)
    assert not capture(it=loader).unavailable


def test_bytes_that_no_tensor_shows_are_neither_compared_nor_written() -> None:
    def loss(hidden: int) -> tuple[torch.Tensor, torch.Tensor]:
        memory = torch.full((100,), hidden, dtype=torch.uint8)
        memory[8:16] = torch.arange(8)
        return memory[8:16].view(torch.float64).reshape(()), memory

    one, _ = loss(1)
    other, memory = loss(2)
    kept = Kept(it=one)
    assert kept.digests == Kept(it=other).digests

    other.fill_(0.5)
    assert kept.put_back(it=other)["it"] is other
    assert other.item() == one.item()
    assert memory.tolist()[:8] == [2] * 8
    assert memory.tolist()[16:] == [2] * 84


def test_a_storage_is_made_anew_in_its_whole_size() -> None:
    memory = torch.arange(10.0)
    kept = Kept(part=memory[4:6], strided=memory[7::2])
    made = kept.put_back()
    assert made["part"].tolist() == [4.0, 5.0]
    assert made["strided"].tolist() == [7.0, 9.0]
    assert made["part"].untyped_storage().data_ptr() == made["strided"].untyped_storage().data_ptr()
