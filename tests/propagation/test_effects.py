"""Expressions are classed by what evaluating them could do to the training."""

from __future__ import annotations

import pytest

from flor_dagster.propagation import classify_effects


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("loss.item()", "pure"),
        ("float(np.mean([g.norm() for g in grads]))", "pure"),
        ("{'a': len(xs), 'b': max(xs)}", "pure"),
        ("model.fc.weight.detach().cpu().numpy()", "pure"),
        ("evaluate(model)", "unknown"),
        ("model(x)", "unknown"),
        ("torch.randn(3)", "unknown"),
        ("np.random.rand()", "unknown"),
        ("next(batches)", "changes-training"),
        ("loss.backward()", "changes-training"),
        ("w.add_(1)", "changes-training"),
        ("torch.relu_(w)", "changes-training"),
        ("model.eval()", "changes-training"),
        ("optimizer.step()", "changes-training"),
        ("(n := 3)", "changes-training"),
        ("xs.pop()", "changes-training"),
        ("dist.all_reduce(x)", "changes-training"),
        ("torch.manual_seed(0)", "changes-training"),
        ("time.time() - start", "clock"),
        ("datetime.now()", "clock"),
        ("time.perf_counter() + f(x)", "clock"),
    ],
)
def test_effects(expression: str, kind: str) -> None:
    assert classify_effects(expression) == kind


def test_waiting_changes_what_runs_when() -> None:
    assert classify_effects("async def f():\n    return await g()") == "changes-training"
