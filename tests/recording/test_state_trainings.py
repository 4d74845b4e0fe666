"""Whole trainings of the libraries: put back in the middle, in place and in a fresh program, they go on bit for bit."""

from __future__ import annotations

import collections
import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the torch end states are not tested")

from tests.recording.state_lab import Kept  # noqa: E402

Training = tuple[dict[str, Any], Callable[[], Any]]
LR = torch.optim.lr_scheduler


def bits(value: Any) -> Any:
    """A value as something that is equal only bit for bit."""
    if isinstance(value, torch.Tensor):
        return bits(value.detach().numpy())
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, float):
        return value.hex()
    return [bits(v) for v in value] if isinstance(value, list | tuple) else value


def net_of(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.3), torch.nn.Linear(6, 1)
    )


def scheduled(make: Callable[[Any], Any], *, metric: bool = False) -> Callable[[], Training]:
    def training() -> Training:
        net = net_of()
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        scheduler = make(optimizer)

        def epoch() -> Any:
            losses: list[float] = []
            for _ in range(3):
                optimizer.zero_grad()
                loss = (net(torch.randn(8, 4)) ** 2).mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                scheduler.step(*([losses[-1]] if metric else []))
            return losses, [g["lr"] for g in optimizer.param_groups], [p.clone() for p in net.parameters()]

        return {"net": net, "optimizer": optimizer, "scheduler": scheduler}, epoch

    return training


SCHEDULERS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "lambda": (lambda o: LR.LambdaLR(o, lambda e: 0.9**e), False),
    "multiplicative": (lambda o: LR.MultiplicativeLR(o, lambda e: 0.95), False),
    "step": (lambda o: LR.StepLR(o, 2), False),
    "multi step": (lambda o: LR.MultiStepLR(o, [2, 5]), False),
    "constant": (lambda o: LR.ConstantLR(o, total_iters=4), False),
    "linear": (lambda o: LR.LinearLR(o, total_iters=4), False),
    "exponential": (lambda o: LR.ExponentialLR(o, 0.9), False),
    "polynomial": (lambda o: LR.PolynomialLR(o, 20), False),
    "cosine": (lambda o: LR.CosineAnnealingLR(o, 10), False),
    "warm restarts": (lambda o: LR.CosineAnnealingWarmRestarts(o, 4), False),
    "one cycle": (lambda o: LR.OneCycleLR(o, 0.5, total_steps=60), False),
    "cyclic": (lambda o: LR.CyclicLR(o, 0.01, 0.1, step_size_up=3), False),
    "plateau": (lambda o: LR.ReduceLROnPlateau(o, patience=1), True),
    "chained": (lambda o: LR.ChainedScheduler([LR.ConstantLR(o), LR.ExponentialLR(o, 0.9)]), False),
    "sequential": (
        lambda o: LR.SequentialLR(o, [LR.LinearLR(o, total_iters=4), LR.ExponentialLR(o, 0.9)], [4]), False,
    ),
}  # fmt: skip


def averaged() -> Training:
    net = net_of()
    optimizer = torch.optim.AdamW(net.parameters())
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    shadow = [p.detach().clone() for p in net.parameters()]

    def epoch() -> Any:
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            average.update_parameters(net)
            for kept, p in zip(shadow, net.parameters(), strict=True):
                kept.mul_(0.9).add_(p.detach(), alpha=0.1)
        return [p.clone() for p in average.parameters()], [s.clone() for s in shadow], int(average.n_averaged)

    return {"net": net, "optimizer": optimizer, "average": average, "shadow": shadow}, epoch


def scaled() -> Training:
    net = torch.nn.Linear(4, 1)
    with torch.no_grad():
        net.weight.fill_(0.5)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)

    def epoch() -> Any:
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(net(torch.randn(8, 4)).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        return net.weight.clone(), scaler.get_scale()

    return {"net": net, "optimizer": optimizer, "scaler": scaler}, epoch


def frozen_and_hooked() -> Training:
    net = net_of()
    net[0].register_buffer("moving", torch.zeros(2), persistent=False)
    norms: list[float] = []
    state = {"epoch": 0}
    net[3].weight.register_hook(lambda g: norms.append(float(g.norm())) or g * 0.5)

    def epoch() -> Any:
        state["epoch"] += 1
        net[0].weight.requires_grad_(state["epoch"] % 2 == 0)
        net.train(state["epoch"] % 3 != 0)
        out = net(torch.randn(8, 4)).square().mean()
        out.backward()
        net[0].moving += 1
        with torch.no_grad():
            for p in net.parameters():
                if p.grad is not None:
                    p -= 0.1 * p.grad
        flags = [p.requires_grad for p in net.parameters()], [m.training for m in net.modules()]
        return out.item(), list(norms), flags, net[0].moving.clone()

    return {"net": net, "norms": norms, "state": state}, epoch


def hook_put_on_by_the_loop() -> Training:
    net = torch.nn.Linear(3, 1)
    seen: list[float] = []

    def epoch() -> Any:
        if not net.weight._backward_hooks:
            net.weight.register_hook(lambda g: seen.append(float(g.sum())))
        net.zero_grad()
        net(torch.ones(2, 3)).sum().backward()
        return list(seen)

    return {"net": net, "seen": seen}, epoch


class Buckets(torch.utils.data.Sampler[int]):
    """A sampler with a state of its own."""

    def __init__(self) -> None:
        self.epoch = 0
        self.generator = torch.Generator().manual_seed(7)

    def __len__(self) -> int:
        return 12

    def __iter__(self) -> Any:
        self.epoch += 1
        yield from torch.randperm(12, generator=self.generator).tolist()


def sampled(workers: int = 0) -> Callable[[], Training]:
    def training() -> Training:
        torch.manual_seed(1)
        sampler = Buckets()
        data = torch.utils.data.TensorDataset(torch.arange(12.0))
        loader = torch.utils.data.DataLoader(data, batch_size=4, sampler=sampler, num_workers=workers)
        weighted = torch.utils.data.WeightedRandomSampler([0.1, 0.5, 0.4], 5)

        def epoch() -> Any:
            return [x.clone() for (x,) in loader], sampler.epoch, list(weighted)

        return {"loader": loader, "weighted": weighted}, epoch

    return training


def compiled() -> Training:
    net = net_of()
    fast = torch.compile(net, backend="eager")
    optimizer = torch.optim.Adam(fast.parameters())

    def epoch() -> Any:
        optimizer.zero_grad()
        loss = fast(torch.randn(8, 4)).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item(), [p.clone() for p in net.parameters()]

    return {"fast": fast, "optimizer": optimizer}, epoch


def numpy_network() -> Training:
    draws = np.random.default_rng(3)
    weights = [np.asfortranarray(draws.normal(size=(4, 6))), draws.normal(size=(6, 1))]
    flat = np.zeros(10)
    parts = [flat[:4], flat[4:]]
    children = np.random.SeedSequence(5)
    queue: list[tuple[float, int]] = []
    best = collections.deque(maxlen=2)

    def epoch() -> Any:
        own = np.random.default_rng(children.spawn(1)[0])
        x = own.normal(size=(8, 4)) + draws.normal()
        for _ in range(2):
            weights[0] -= 0.1 * x.T @ (x @ weights[0])
        weights[1][:] = weights[1] * 0.9
        parts[0][:] += 1
        heapq.heappush(queue, (float(abs(x.sum())), len(queue)))
        best.append(queue[0])
        return weights[0].copy(), flat.copy(), list(queue), list(best), weights[0].flags.f_contiguous

    return {
        "weights": weights, "flat": flat, "parts": parts, "draws": draws, "children": children, "queue": queue, "best": best,
    }, epoch  # fmt: skip


def sklearn_training(name: str) -> Callable[[], Training]:
    def training() -> Training:
        pytest.importorskip("sklearn", reason="scikit-learn is not installed: its estimators are not tested")
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
        from sklearn.linear_model import SGDClassifier
        from sklearn.naive_bayes import GaussianNB
        from sklearn.neural_network import MLPClassifier
        from sklearn.preprocessing import StandardScaler

        draws = np.random.default_rng(0)
        box = {"n": 2}
        estimators: dict[str, Any] = {
            "sgd": SGDClassifier(random_state=np.random.RandomState(0), average=True),
            "mlp": MLPClassifier((5,), random_state=np.random.RandomState(0)),
            "bayes": GaussianNB(),
            "kmeans": MiniBatchKMeans(2, random_state=np.random.RandomState(0), n_init=1),
            "forest": RandomForestClassifier(2, warm_start=True, random_state=np.random.RandomState(0)),
            "boosting": GradientBoostingRegressor(n_estimators=2, warm_start=True, subsample=0.5, random_state=np.random.RandomState(0)),
            "scaler": StandardScaler(),
        }  # fmt: skip
        model = estimators[name]

        def epoch() -> Any:
            x = draws.normal(size=(30, 3))
            y = (x[:, 0] > 0).astype(int)
            if name in ("forest", "boosting"):
                box["n"] += 1
                model.set_params(n_estimators=box["n"])
                model.fit(x, y)
                return model.predict(x)
            if name in ("scaler", "kmeans"):
                model.partial_fit(x)
                return model.transform(x)
            model.partial_fit(x, y, classes=[0, 1])
            return model.predict(x), getattr(model, "coef_", getattr(model, "theta_", None))

        return {"model": model, "draws": draws, "box": box}, epoch

    return training


def tables() -> Training:
    pd = pytest.importorskip("pandas", reason="pandas is not installed: its tables are not tested")
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"], "c": pd.Categorical(["u", "v"])})
    box = {"frame": frame, "series": frame["a"].copy(), "history": pd.DataFrame()}

    def epoch() -> Any:
        box["frame"].loc[len(box["frame"])] = [3.0, "x", "u"]
        box["series"] = box["series"] * 2
        box["history"] = pd.concat([box["history"], pd.DataFrame({"m": [len(box["frame"])]})])
        return (
            box["frame"].to_csv(),
            box["series"].tolist(),
            box["history"].to_csv(),
            str(box["frame"].dtypes),
        )

    return {"box": box}, epoch


def sparse_matrices() -> Training:
    sp = pytest.importorskip("scipy.sparse", reason="scipy is not installed: its matrices are not tested")
    box = {"csr": sp.random(5, 5, 0.4, format="csr", random_state=0), "lil": sp.lil_matrix((3, 3)), "dok": sp.dok_matrix((2, 2))}  # fmt: skip

    def epoch() -> Any:
        box["csr"].data *= 2
        box["csr"] = box["csr"] + sp.eye(5, format="csr")
        box["lil"][0, 1] += 1
        box["dok"][1, 1] += 1
        return box["csr"].toarray(), box["lil"].toarray(), box["dok"].toarray(), str(box["csr"].format)

    return {"box": box}, epoch


TRAININGS: dict[str, Callable[[], Training]] = {
    **{f"{name} scheduler": scheduled(make, metric=metric) for name, (make, metric) in SCHEDULERS.items()},
    "averaged models": averaged,
    "gradient scaler": scaled,
    "flags and hooks": frozen_and_hooked,
    "a hook that the loop puts on": hook_put_on_by_the_loop,
    "samplers": sampled(),
    "samplers with workers": sampled(1),
    "compiled model": compiled,
    "numpy": numpy_network,
    "tables": tables,
    "sparse matrices": sparse_matrices,
    **{
        name: sklearn_training(name)
        for name in ("sgd", "mlp", "bayes", "kmeans", "forest", "boosting", "scaler")
    },
}


def generators() -> dict[str, Any]:
    return {"torch": torch.default_generator, "numpy": np.random.mtrand._rand}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_goes_on_bit_for_bit_in_place(name: str) -> None:
    names, epoch = TRAININGS[name]()
    epoch()
    epoch()
    kept = Kept(**names, **generators())
    wanted = bits([epoch(), epoch()])
    restored = kept.put_back(**names, **generators())
    for key, value in restored.items():
        # Nothing can take back that a seed sequence has spawned children; a replay never has to.
        assert key in ("torch", "numpy", "children") or value is names[key], key
    if name != "numpy":
        assert bits([epoch(), epoch()]) == wanted


@pytest.mark.parametrize("name", TRAININGS)
def test_a_fresh_program_goes_on_bit_for_bit(name: str) -> None:
    names, epoch = TRAININGS[name]()
    epoch()
    epoch()
    kept = Kept(**names, **generators())
    wanted = bits(epoch())
    fresh, fresh_epoch = TRAININGS[name]()
    restored = kept.put_back(**fresh, **generators())
    for key, value in restored.items():
        assert key in ("torch", "numpy") or value is fresh[key], key
    assert bits(fresh_epoch()) == wanted
