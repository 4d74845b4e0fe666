"""Train a small neural network on scikit-learn's handwritten digits."""

import numpy as np
from sklearn.datasets import load_digits

import flor_dagster as flor

seed = flor.arg("seed", 0)
epochs = flor.arg("epochs", 40)
batch_size = flor.arg("batch_size", 64)
lr = flor.arg("lr", 0.02)
momentum = flor.arg("momentum", 0.9)
hidden = flor.arg("hidden", 256)


def train_step(params, velocity, xb, yb):
    """One step of gradient descent with momentum; returns the loss of the batch."""
    rows = np.arange(len(yb))

    # forward: one hidden layer, then softmax
    h = np.maximum(xb @ params["w1"] + params["b1"], 0)
    logits = h @ params["w2"] + params["b2"]
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    loss = -np.log(probs[rows, yb] + 1e-12).mean()

    # backward: gradient of the mean cross-entropy
    d_logits = probs.copy()
    d_logits[rows, yb] -= 1
    d_logits /= len(yb)
    dh = d_logits @ params["w2"].T * (h > 0)
    grads = {"w1": xb.T @ dh, "b1": dh.sum(axis=0), "w2": h.T @ d_logits, "b2": d_logits.sum(axis=0)}

    for name in params:
        velocity[name] = momentum * velocity[name] - lr * grads[name]
        params[name] += velocity[name]
    return loss


# each digit nine times: as it is, and moved by a pixel in every direction
digits = load_digits()
images = digits.images / 16
moves = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
x = np.concatenate([np.roll(images, move, axis=(1, 2)) for move in moves]).reshape(-1, 64)
y = np.tile(digits.target, len(moves))

rng = np.random.default_rng(seed)
params = {
    "w1": rng.normal(0, np.sqrt(2 / 64), (64, hidden)),
    "b1": np.zeros(hidden),
    "w2": rng.normal(0, np.sqrt(2 / hidden), (hidden, 10)),
    "b2": np.zeros(10),
}
velocity = {name: np.zeros_like(value) for name, value in params.items()}

with flor.checkpointing(params=params, velocity=velocity, rng=rng):
    for epoch in flor.loop("epoch", range(epochs)):
        order = rng.permutation(len(x))
        losses = []
        for start in flor.loop("step", range(0, len(x), batch_size)):
            batch = order[start : start + batch_size]
            loss = train_step(params, velocity, x[batch], y[batch])
            flor.log("loss", loss)
            losses.append(loss)
        train_loss = np.mean(losses)
        flor.log("train_loss", train_loss)
        print(f"epoch {epoch}: loss {train_loss:.4f}")
