"""Train a small neural network on scikit-learn's handwritten digits.

One hidden layer, softmax, mean cross-entropy; mini-batches with momentum.
"""

import numpy as np
from data import load_split

import flor_dagster as flor


def init_params(rng, hidden):
    """He initialisation of both layers."""
    return {
        "w1": rng.normal(0, np.sqrt(2 / 64), (64, hidden)),
        "b1": np.zeros(hidden),
        "w2": rng.normal(0, np.sqrt(2 / hidden), (hidden, 10)),
        "b2": np.zeros(10),
    }


def forward(params, inputs):
    """The hidden layer's activations and the class probabilities."""
    h = np.maximum(inputs @ params["w1"] + params["b1"], 0)
    logits = h @ params["w2"] + params["b2"]
    # the largest logit is taken off, so that exp can't overflow
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    return h, probs


def train_step(params, velocity, xb, yb, lr, momentum):
    """One step of gradient descent with momentum; returns the loss of the batch."""
    rows = np.arange(len(yb))
    h, probs = forward(params, xb)
    loss = -np.log(probs[rows, yb] + 1e-12).mean()

    # the gradient of softmax and cross-entropy together
    d_logits = probs.copy()
    d_logits[rows, yb] -= 1
    d_logits /= len(yb)
    dh = d_logits @ params["w2"].T * (h > 0)
    grads = {
        "w1": xb.T @ dh,
        "b1": dh.sum(axis=0),
        "w2": h.T @ d_logits,
        "b2": d_logits.sum(axis=0),
    }

    for name in params:
        velocity[name] = momentum * velocity[name] - lr * grads[name]
        params[name] += velocity[name]
    return loss


def main():
    seed = flor.arg("seed", 0)
    epochs = flor.arg("epochs", 40)
    batch_size = flor.arg("batch_size", 64)
    hidden = flor.arg("hidden", 256)
    lr = flor.arg("lr", 0.02)
    momentum = flor.arg("momentum", 0.9)

    x, y, x_val, y_val = load_split()
    rng = np.random.default_rng(seed)
    params = init_params(rng, hidden)
    velocity = {name: np.zeros_like(value) for name, value in params.items()}

    with flor.checkpointing(params=params, velocity=velocity, rng=rng):
        for epoch in flor.loop("epoch", range(epochs)):
            # a new order in every epoch
            order = rng.permutation(len(x))
            losses = []
            for start in flor.loop("step", range(0, len(x), batch_size)):
                batch = order[start : start + batch_size]
                loss = train_step(params, velocity, x[batch], y[batch], lr, momentum)
                flor.log("loss", loss)
                losses.append(loss)
            train_loss = np.mean(losses)
            flor.log("train_loss", train_loss)

            _, val_probs = forward(params, x_val)
            val_acc = (val_probs.argmax(axis=1) == y_val).mean()
            flor.log("val_acc", val_acc)
            print(f"epoch {epoch}: loss {train_loss:.4f}, validation accuracy {val_acc:.4f}")


if __name__ == "__main__":
    main()
