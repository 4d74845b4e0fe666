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

# each digit nine times: as it is, and moved by a pixel in every direction
digits = load_digits()
images = digits.images / 16
moves = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
x = np.concatenate([np.roll(images, move, axis=(1, 2)) for move in moves]).reshape(-1, 64)
y = np.tile(digits.target, len(moves))

rng = np.random.default_rng(seed)
w = {
    "w1": rng.normal(0, np.sqrt(2 / 64), (64, hidden)),
    "b1": np.zeros(hidden),
    "w2": rng.normal(0, np.sqrt(2 / hidden), (hidden, 10)),
    "b2": np.zeros(10),
}
velocity = {k: np.zeros_like(w[k]) for k in w}

with flor.checkpointing(w=w, velocity=velocity, rng=rng):
    for i in flor.loop("epoch", range(epochs)):
        order = rng.permutation(len(x))
        losses = []
        for j in flor.loop("step", range(0, len(x), batch_size)):
            batch = order[j : j + batch_size]
            xb, yb = x[batch], y[batch]
            rows = np.arange(len(yb))

            # forward: one hidden layer, then softmax
            h = np.maximum(xb @ w["w1"] + w["b1"], 0)
            z = h @ w["w2"] + w["b2"]
            p = np.exp(z - z.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            loss = -np.log(p[rows, yb] + 1e-12).mean()

            # backward: gradient of the mean cross-entropy
            dz = p.copy()
            dz[rows, yb] -= 1
            dz /= len(yb)
            dh = dz @ w["w2"].T * (h > 0)
            grads = {"w1": xb.T @ dh, "b1": dh.sum(axis=0), "w2": h.T @ dz, "b2": dz.sum(axis=0)}

            for k in w:
                velocity[k] = momentum * velocity[k] - lr * grads[k]
                w[k] += velocity[k]
            flor.log("loss", loss)
            losses.append(loss)
        train_loss = np.mean(losses)
        flor.log("train_loss", train_loss)
        print(f"epoch {i}: loss {train_loss:.4f}")
