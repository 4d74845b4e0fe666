"""Expressions are classed by what evaluating them could do to the training."""

from __future__ import annotations

import textwrap

import pytest

from flor_dagster.propagation import classify_effects, propagate

PURE = """
    loss.item()
    float(np.mean([g.norm() for g in grads]))
    {'a': len(xs), 'b': max(xs)}
    model.fc.weight.detach().cpu().numpy()
    f"{epoch}: {loss.item():.3f} {acc * 100:{width}}"
    [p.grad.norm().item() for p in model.parameters()]
    {n: p.mean() for n, p in model.named_parameters()}
    torch.linalg.norm(w).item()
    torch.cuda.max_memory_allocated() / 2 ** 20
    sorted(scores, key=lambda s: s.mean())
    max(history, key=len)
    x.log().mean()
    math.log(x, 2)
    optimizer.param_groups[0]['lr']
    scheduler.get_last_lr()[0]
    xs[-1] if xs else None
    config.get('lr', 0.1)
    os.path.join(folder, 'x')
    (a, b, *rest)
    lambda: 1
    x.add(1).sum()
    len(loader)
    str(train_iter)
    loss.backward
"""
UNKNOWN = """
    evaluate(model)
    model(x)
    self.net(x).argmax(1)
    model.forward(x)
    model.predict(x)
    torch.randn(3)
    torch.nn.Linear(3, 3)
    np.random.rand()
    np.random.choice(xs)
    random.random()
    F.dropout(x)
    F.batch_norm(x, mean, var)
    policy.sample()
    print(x)
    open(path).read_text
    open('x', 'rb')
    f"{model(x)}"
    list(map(score, xs))
    [b for b in train_loader]
    list(train_loader)
    wandb.log({'a': 1})
    self.log('a', 1)
    accelerator.gather(x)
    getattr(x, 'pop')()
    iter(xs)
    handlers[0](x)
    torch.empty(3)
    archive.read('x')
"""
CHANGING = """
    next(batches)
    loss.backward()
    torch.autograd.grad(loss, w)
    w.add_(1)
    w.data.copy_(v)
    x.grad.zero_()
    torch.relu_(w)
    torch.nn.utils.clip_grad_norm_(ps, 1)
    model.eval()
    model.train(False)
    model.to('cpu')
    net.half()
    optimizer.step()
    scheduler.step()
    (n := 3)
    [y for x in xs if (y := f(x))]
    xs.pop()
    xs.append(1)
    queue.get()
    d.setdefault('a', 1)
    d.update(a=1)
    setattr(x, 'a', 1)
    x.__setitem__(0, 1)
    torch.add(a, b, out=c)
    np.add(a, b, out=c)
    np.add.at(a, 0, 1)
    np.copyto(a, b)
    df.dropna(inplace=True)
    F.relu(x, inplace=True)
    torch.randn(3, generator=g)
    rng.normal()
    rng.choice(xs)
    random.shuffle(xs)
    dist.all_reduce(x)
    torch.distributed.all_reduce(x)
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(1)
    torch.set_grad_enabled(False)
    torch.save(m, 'x')
    open('x', 'w')
    open('x', mode)
    os.remove('x')
    subprocess.run(['x'])
    f.readline()
    f.read(10)
    f.read()
    list(map(next, its))
    [x for x in batch_iter]
    sum(stream)
    list(train_iter)
    eval('x')
    f"{xs.pop()}"
    env.step(a)
    clf.fit(x, y)
    K.set_value(lr, 1)
    del x
    x[0] = 1
    x.a = 1
    x += 1
    x.a += 1
    global x
    [*train_iter]
"""
CLOCK = """
    time.time() - start
    time()
    datetime.now()
    datetime.datetime.utcnow().isoformat()
    time.perf_counter() + f(x)
    perf_counter_ns()
    psutil.Process().memory_info().rss
    uuid.uuid4()
    os.getpid()
    start.elapsed_time(end)
"""


def rows() -> list[tuple[str, str]]:
    kinds = {"pure": PURE, "unknown": UNKNOWN, "changes-training": CHANGING, "clock": CLOCK}
    return [
        (kind, line) for kind, text in kinds.items() for line in textwrap.dedent(text).strip().splitlines()
    ]


@pytest.mark.parametrize(("kind", "expression"), rows(), ids=[e for _, e in rows()])
def test_effects(kind: str, expression: str) -> None:
    assert classify_effects(expression) == kind


def test_waiting_changes_what_runs_when() -> None:
    assert classify_effects("async def f():\n    return await g()") == "changes-training"
    assert classify_effects("def f():\n    yield 1") == "changes-training"


def test_code_may_change_what_it_made_itself() -> None:
    assert classify_effects("kept = []\nfor x in xs:\n    kept.append(x)") == "unknown"
    assert classify_effects("kept = {}\nkept['a'] = 1") == "pure"
    assert classify_effects("for x in xs:\n    kept.append(x)") == "changes-training"


SCRIPT = "import torch.distributed as dist\nrank = dist.get_rank()\nx = f()\n{}use(x)\n"


def ask(statement: str, **keywords: bool):  # type: ignore[no-untyped-def]
    new = SCRIPT.format(statement)
    return propagate(
        new, SCRIPT.format(""), [n for n, t in enumerate(new.splitlines(), 1) if "'Q'" in t], **keywords
    )


@pytest.mark.parametrize(
    "test", ["rank == 0", "is_main_process()", "args.local_rank in (-1, 0)", "self.trainer.is_global_zero"]
)
def test_a_collective_under_a_rank_test_would_wait_for_ever(test: str) -> None:
    names = "args = self = is_main_process = f()\n"
    new = SCRIPT.format(f"if {test}:\n    flor.log('Q', dist.allreduce(x))\n").replace(
        "x = f()\n", names + "x = f()\n"
    )
    old = SCRIPT.format("").replace("x = f()\n", names + "x = f()\n")
    (refusal,) = propagate(new, old, [6]).refusals
    assert refusal.kind == "changes-training"
    assert "every rank" in refusal.sentence
    assert propagate(new, old, [6], allow_effects=True).placements


def test_a_collective_on_all_ranks_is_placed() -> None:
    assert ask("flor.log('Q', dist.allreduce(x))\n").placements


@pytest.mark.parametrize(
    "call",
    [
        "flor.log('Q', value=next(x))",
        "flor.log(x.pop(), 1)\nflor.log('Q', 1)",
        "flor.log(name='Q', value=(y := 1))",
    ],
)
def test_effects_are_found_in_every_argument(call: str) -> None:
    refused = ask(call + "\n").refusals
    lines = {r.statement.lines[0] for r in refused}
    assert (4 in lines) is ("pop" not in call)


def test_a_guard_may_not_change_the_training_either() -> None:
    (refusal,) = ask("if x.pop():\n    flor.log('Q', 1)\n").refusals
    assert refusal.kind == "changes-training"
