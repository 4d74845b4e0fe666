"""The programs: where they lie, which commits, what instruments them, what is asked, and where a person puts it."""

from __future__ import annotations

import random

from tests.field.lab import Edit, Program, Version

IMPORT = "import flor_dagster as flor"


# karpathy/makemore: one script, a loop without end, models that came one by one --------------------------------------

_MAKEMORE = (
    Edit("import argparse", IMPORT, "before"),
    Edit(
        "from torch.utils.tensorboard import SummaryWriter",
        "class SummaryWriter:\n    def __init__(self, log_dir):\n        pass",
        "instead",
    ),
    Edit("while True:", 'for _ in flor.loop("step", range(6)):', "instead", above="best_loss = None"),
    Edit("optimizer.step()", 'flor.log("loss", loss.item())'),
)
_MAKEMORE_ASKED = {
    "grad_norm": Edit(
        "loss.backward()",
        'flor.log("grad_norm", sum(float(p.grad.norm()) for p in model.parameters() if p.grad is not None))',
    ),
    "first_token": Edit("X, Y = batch", 'flor.log("first_token", int(X.sum()))', above="best_loss = None"),
    "vocabulary": Edit(
        "model.to(args.device)", 'flor.log("vocabulary", train_dataset.get_vocab_size())', "before"
    ),
    "logit_mean": Edit(
        "logits, loss = model(X, Y)", 'flor.log("logit_mean", logits.mean().item())', above="best_loss = None"
    ),
}
MAKEMORE = Program(
    name="makemore",
    address="https://github.com/karpathy/makemore",
    script="makemore.py",
    arguments=(
        "--input-file=few.txt", "--num-workers=0", "--n-layer=1", "--n-head=2", "--n-embd=16", "--batch-size=8",
    ),
    files={"few.txt": "\n".join(f"{a}{b}na{c}" for a in "kmrst" for b in "aeiou" for c in "nrlmdb" * 8) + "\n"},
    versions=(
        Version("c3aaadcb165a7e188d808cc36507d8bd10a94524", _MAKEMORE, _MAKEMORE_ASKED),
        Version("35435ec08796c725cc348cdc53b9bae02dd33d05", _MAKEMORE, _MAKEMORE_ASKED),
        Version("bf386250141f18f61321bc4b9a56c7b67c0b1668", _MAKEMORE, _MAKEMORE_ASKED),
    ),
)  # fmt: skip

# tkipf/pygcn: a package with a script in it, an epoch in a function, dropout, sparse matrices -------------------------

_PYGCN = (
    Edit("import time", f"import sys\nsys.path.insert(0, '..')\n{IMPORT}", "before"),
    Edit(
        "for epoch in range(args.epochs):", 'for epoch in flor.loop("epoch", range(args.epochs)):', "instead"
    ),
    Edit("acc_train = accuracy(output[idx_train], labels[idx_train])", 'flor.log("loss", loss_train.item())'),
)
_PYGCN_OLD = (
    Edit("'loss_train: {:.4f}'.format(loss_train.data[0]),", "'loss_train: {:.4f}'.format(loss_train.item()),", 'instead'),
    Edit("'acc_train: {:.4f}'.format(acc_train.data[0]),", "'acc_train: {:.4f}'.format(acc_train.item()),", 'instead'),
    Edit("'loss_val: {:.4f}'.format(loss_val.data[0]),", "'loss_val: {:.4f}'.format(loss_val.item()),", 'instead'),
    Edit("'acc_val: {:.4f}'.format(acc_val.data[0]),", "'acc_val: {:.4f}'.format(acc_val.item()),", 'instead'),
)  # fmt: skip
_PYGCN_ASKED = {
    "confidence": Edit(
        "output = model(features, adj)", 'flor.log("confidence", output.exp().max(1).values.mean().item())'
    ),
    "weights": Edit("optimizer.step()", 'flor.log("weights", model.gc1.weight.norm().item())'),
    "nodes": Edit("def train(epoch):", 'flor.log("nodes", len(labels))', "before"),
    "test_loss": Edit(
        "acc_test = accuracy(output[idx_test], labels[idx_test])", 'flor.log("test_loss", loss_test.item())'
    ),
}


def _cora() -> dict[str, str]:
    """A citation network of the form of the one that the program comes with, of 1,500 papers."""
    draw = random.Random(3)
    kinds = [f"Kind_{n % 4}" for n in range(1500)]
    papers = ["\t".join([str(1000 + n), *(str(int(draw.random() < 0.1 + (n % 4 == w % 4) / 3)) for w in range(12)), kind])
              for n, kind in enumerate(kinds)]  # fmt: skip
    cites = [f"{1000 + draw.randrange(1500)}\t{1000 + draw.randrange(1500)}" for _ in range(3000)]
    return {
        "data/cora/cora.content": "\n".join(papers) + "\n",
        "data/cora/cora.cites": "\n".join(cites) + "\n",
    }


PYGCN = Program(
    name="pygcn",
    address="https://github.com/tkipf/pygcn",
    script="pygcn/train.py",
    folder="pygcn",
    arguments=("--epochs=4", "--hidden=4", "--no-cuda"),
    paths=("pygcn",),
    files=_cora(),
    # It numbers its classes in the order of a set of texts: without a fixed hash seed no two runs of it are alike.
    variables={"PYTHONHASHSEED": "0"},
    needs=("torch", "scipy"),
    versions=(
        Version("8e42cae27e2447364c2f9ba4899b5351e2575a9e", (*_PYGCN, *_PYGCN_OLD), _PYGCN_ASKED),
        Version("299b90de321a8747e96dbd9e1c44bc30f6788986", _PYGCN, _PYGCN_ASKED),
        Version("3af13e96e846cc4831c04cf31b433700658de8d0", _PYGCN, _PYGCN_ASKED),
    ),
)

# joelgrus/joelnet: a library of NumPy in several files, the loop in another file than the script ----------------------

_JOELNET = (
    Edit("import numpy as np", "np.random.seed(7)"),
    Edit("num_epochs=5000,", "num_epochs=3,", "instead"),
    Edit("from joelnet.nn import NeuralNet", IMPORT, "before", "joelnet/train.py"),
    Edit(
        "for epoch in range(num_epochs):",
        'for epoch in flor.loop("epoch", range(num_epochs)):',
        "instead",
        "joelnet/train.py",
    ),
    Edit("print(epoch, epoch_loss)", 'flor.log("loss", float(epoch_loss))', file="joelnet/train.py"),
)
_JOELNET_ASKED = {
    "grad_mean": Edit("net.backward(grad)", 'flor.log("grad_mean", float(abs(grad).mean()))', file="joelnet/train.py"),
    "batch_loss": Edit(
        "grad = loss.grad(predicted, batch.targets)",
        'flor.log("batch_loss", float(loss.loss(predicted, batch.targets)))',
        "before",
        "joelnet/train.py",
    ),
    "output_bias": Edit(
        "print(epoch, epoch_loss)",
        'flor.log("output_bias", net.layers[-1].params["b"].tolist())',
        file="joelnet/train.py",
    ),
    "inputs": Edit("for epoch in flor.loop(\"epoch\", range(num_epochs)):", 'flor.log("inputs", len(inputs))', "before", "joelnet/train.py"),
}  # fmt: skip
JOELNET = Program(
    name="joelnet",
    address="https://github.com/joelgrus/joelnet",
    script="fizzbuzz.py",
    arguments=(),
    needs=("numpy",),
    versions=(
        Version("ed10f0cf576b302157112c352729fe525d294887", _JOELNET, _JOELNET_ASKED),
        Version("7c4c3680eb2847f7dc9254381597fe35b8c47335", _JOELNET, _JOELNET_ASKED),
        Version("65cbc3ff169855d801416d629d290c44c95d001d", _JOELNET, _JOELNET_ASKED),
    ),
)

# pytorch/examples, regression: a loop over `count` that a condition leaves --------------------------------------------

_REGRESSION = (
    Edit("import torch", f"{IMPORT}\ntorch.manual_seed(0)", above="from itertools import count"),
    Edit("for batch_idx in count(1):", 'for batch_idx in flor.loop("batch", range(1, 40)):', "instead"),
    Edit("# Backward pass", 'flor.log("loss", loss)', "before"),
)
_REGRESSION_OLD = (
    Edit("loss = output.data[0]", "loss = output.item()", "instead"),
    Edit("return x.mm(W_target) + b_target[0]", "return x.mm(W_target) + b_target.item()", "instead"),
)
_REGRESSION_ASKED = {
    "grad": Edit("output.backward()", 'flor.log("grad", fc.weight.grad.view(-1).tolist())'),
    "target_bias": Edit("# Define model", 'flor.log("target_bias", float(b_target[0]))', "before"),
    "largest": Edit("batch_x, batch_y = get_batch()", 'flor.log("largest", batch_y.abs().max().item())'),
    "learnt_bias": Edit("print('Loss: {:.6f} after {} batches'.format(loss, batch_idx))", 'flor.log("learnt_bias", fc.bias.item())'),
}  # fmt: skip
REGRESSION = Program(
    name="regression",
    address="https://github.com/pytorch/examples",
    script="regression/main.py",
    paths=("regression",),
    arguments=(),
    versions=(
        Version(
            "8f4a46126cbcf641825b62168b965d5cb2bcd2f6", (*_REGRESSION, *_REGRESSION_OLD), _REGRESSION_ASKED
        ),
        Version("fe8abc3c810420df2856c6e668258f396b154cee", _REGRESSION, _REGRESSION_ASKED),
        Version("a4b0aba292e08ee3df3bbf30164304420796d81e", _REGRESSION, _REGRESSION_ASKED),
    ),
)

# pytorch/examples, time series: two LSTM cells, an optimizer that calls a closure, plots -------------------------------

_SERIES = (
    Edit("import torch.nn as nn", IMPORT),
    Edit("print('STEP: ', i)", "", "instead"),
    Edit("data = torch.load('traindata.pt')", "data = np.sin(np.arange(14)[None, :] / 2.0 + np.arange(7)[:, None])", "instead"),
    Edit("future = 1000", "future = 3", "instead"),
)  # fmt: skip
_SERIES_LOOP = Edit("for i in range(15):", 'for i in flor.loop("step", range(3)):', "instead")
_SERIES_TEST = Edit("print('test loss:', loss.item())", 'flor.log("test_loss", loss.item())')
_SERIES_OLD = (
    _SERIES_LOOP,
    Edit("print('loss:', loss.data.numpy()[0])", "", "instead"),
    Edit("print('test loss:', loss.data.numpy()[0])", 'flor.log("test_loss", loss.item())', "instead"),
)
_SERIES_ASKED = {
    "train_loss": Edit("loss.backward()", 'flor.log("train_loss", loss.item())'),
    "prediction": Edit("# draw the result", 'flor.log("prediction", y.sum(1).tolist())', "before"),
    "shape": Edit("# build the model", 'flor.log("shape", list(input.size()))', "before"),
    "bias": Edit("# begin to predict, no need to track gradient here", 'flor.log("bias", seq.lstm1.bias_ih.sum().item())', "before"),
}  # fmt: skip
_SERIES_PLOTS = {
    "time_sequence_prediction/matplotlib/__init__.py": "def use(name):\n    pass\n",
    "time_sequence_prediction/matplotlib/pyplot.py": "def __getattr__(name):\n    return lambda *a, **k: None\n",
}
SERIES = Program(
    name="time_sequence_prediction",
    address="https://github.com/pytorch/examples",
    script="time_sequence_prediction/train.py",
    folder="time_sequence_prediction",
    paths=("time_sequence_prediction",),
    files=_SERIES_PLOTS,
    arguments=(),
    versions=(
        Version(
            "a72359893f198c432549d3bc7e4453f67963b0b6",
            (*_SERIES, *_SERIES_OLD),
            _SERIES_ASKED | {"bias": Edit("# begin to predict", _SERIES_ASKED["bias"].lines, "before")},
        ),
        Version(
            "645c7c386e62d2fb1d50f4621c1a52645a13869f",
            (*_SERIES, _SERIES_LOOP, _SERIES_TEST),
            _SERIES_ASKED,
        ),
        Version(
            "2c57b0011a096aef83da3b5265a14db2f80cb124",
            (
                *_SERIES,
                Edit("for i in range(opt.steps):", 'for i in flor.loop("step", range(3)):', "instead"),
                _SERIES_TEST,
            ),
            _SERIES_ASKED,
        ),
    ),
)

# pytorch/examples, a language model: recurrent state, a learning rate that falls, the best model saved and loaded -------

_WORDS_ = (
    Edit("import time", IMPORT),
    Edit("for epoch in range(1, args.epochs+1):", 'for epoch in flor.loop("epoch", range(1, args.epochs+1)):', "instead"),
    Edit(
        "for batch, i in enumerate(range(0, train_data.size(0) - 1, args.bptt)):",
        'for batch, i in enumerate(flor.loop("batch", range(0, train_data.size(0) - 1, args.bptt))):',
        "instead",
    ),
    Edit("total_loss += loss.item()", 'flor.log("loss", loss.item())'),
    Edit("model = torch.load(f)", "model = torch.load(f, weights_only=False)", "instead"),
)  # fmt: skip
_WORDS_ASKED = {
    "grad_norm": Edit("loss.backward()", 'flor.log("grad_norm", float(model.encoder.weight.grad.norm()))'),
    "valid_loss": Edit("val_loss = evaluate(val_data)", 'flor.log("valid_loss", val_loss)'),
    "hidden": Edit(
        "output, hidden = model(data, hidden)",
        'flor.log("hidden", float(hidden[0].abs().mean()))',
        above="def train():",
    ),
    "words": Edit("criterion = nn.NLLLoss()", 'flor.log("words", ntokens)', "before"),
}


def _text(seed: int, sentences: int) -> str:
    draw = random.Random(seed)
    words = ["the", "a", "cat", "dog", "sees", "hears", "old", "young", "house", "tree", "runs", "sleeps"]
    return "".join(f" {' '.join(draw.choice(words) for _ in range(6))} . \n" for _ in range(sentences))


WORD_MODEL = Program(
    name="word_language_model",
    address="https://github.com/pytorch/examples",
    script="word_language_model/main.py",
    folder="word_language_model",
    paths=tuple(f"word_language_model/{name}.py" for name in ("main", "model", "data")),
    files={
        f"word_language_model/tiny/{name}.txt": _text(number, sentences)
        for number, (name, sentences) in enumerate([("train", 30), ("valid", 12), ("test", 12)])
    },
    arguments=(
        "--data=tiny", "--emsize=8", "--nhid=8", "--nlayers=1", "--epochs=3", "--batch_size=4", "--bptt=10", "--lr=5", "--dropout=0.1",
    ),
    versions=(
        Version("5551061414d3bcf202de520d20e8163f58eb664a", _WORDS_, _WORDS_ASKED),
        Version("49ec0bd72b85be55579ae8ceb278c66145f593e1", _WORDS_, _WORDS_ASKED),
        Version("28d16ffaa50702f18cae7eba7c67bf03794770cd", _WORDS_, _WORDS_ASKED),
    ),
)  # fmt: skip

# seungeunrho/minimalRL: an agent that carries its data, a world of steps, draws from distributions ----------------------

GYM = """\
import random
import numpy as np

NEW = {new}

class CartPole:
    \"\"\"A cart that is pushed left or right: not the real one's physics, but its interface.\"\"\"
    def __init__(self):
        self.draw = random.Random(5)
    def reset(self):
        self.state = np.array([self.draw.uniform(-0.05, 0.05) for _ in range(4)])
        self.steps = 0
        return (self.state, {{}}) if NEW else self.state
    def step(self, action):
        self.steps += 1
        push = 0.1 if action else -0.1
        x, v, angle, spin = self.state
        self.state = np.array([x + v / 50, v + push, angle + spin / 50, spin - push * 1.5 + angle / 10])
        done = abs(angle) > 0.2 or self.steps >= 12
        return (self.state, 1.0, done, False, {{}}) if NEW else (self.state, 1.0, done, {{}})
    def close(self):
        pass

def make(name):
    return CartPole()
"""
_AGENT = (
    Edit("import torch", f"{IMPORT}\ntorch.manual_seed(3)"),
    Edit("for n_epi in range(10000):", 'for n_epi in flor.loop("episode", range(4)):', "instead"),
    Edit("pi.train_net()", 'flor.log("score", score)'),
)
_AGENT_ASKED = {
    "length": Edit("pi.train_net()", 'flor.log("length", len(pi.data))', "before"),
    "weights": Edit("pi.train_net()", 'flor.log("weights", float(pi.fc1.weight.norm()))'),
    "chance": Edit("a = m.sample()", 'flor.log("chance", float(prob.max()))'),
    "entropy": Edit("m = Categorical(prob)", 'flor.log("entropy", float(-(prob * prob.log()).sum()))'),
}
AGENT = Program(
    name="REINFORCE",
    address="https://github.com/seungeunrho/minimalRL",
    script="REINFORCE.py",
    paths=("REINFORCE.py",),
    files={"gym_old.py": GYM.format(new=False), "gym_new.py": GYM.format(new=True)},
    arguments=(),
    versions=(
        Version(
            "1d44f1356b12af93336cedbb12147d7410a7c94c",
            (*_AGENT, Edit("import gym", "import gym_old as gym", "instead")),
            _AGENT_ASKED,
        ),
        Version(
            "7095e0f9ffa408959842528714ba687743661c14",
            (*_AGENT, Edit("import gym", "import gym_old as gym", "instead")),
            _AGENT_ASKED,
        ),
        Version(
            "6fba007e1bee40f05496f04bc55168f0c5772fb3",
            (*_AGENT, Edit("import gym", "import gym_new as gym", "instead")),
            _AGENT_ASKED,
        ),
    ),
)

_CRITIC = (
    Edit("import torch", f"{IMPORT}\ntorch.manual_seed(3)"),
    Edit("for n_epi in range(10000):", 'for n_epi in flor.loop("episode", range(4)):', "instead"),
    Edit("model.train_net()", 'flor.log("score", score)'),
)
_CRITIC_ASKED = {
    "advantage": Edit("delta = td_target - self.v(s)", 'flor.log("advantage", delta.abs().mean().item())'),
    "batch": Edit("s, a, r, s_prime, done = self.make_batch()", 'flor.log("batch", len(s))'),
    "value": Edit("m = Categorical(prob)", 'flor.log("value", model.v(torch.from_numpy(s).float()).item())'),
    "start": Edit("print_interval = 20", 'flor.log("start", float(model.fc_v.weight.norm()))'),
}
CRITIC = Program(
    name="actor_critic",
    address="https://github.com/seungeunrho/minimalRL",
    script="actor_critic.py",
    paths=("actor_critic.py",),
    files=AGENT.files,
    arguments=(),
    versions=(
        Version(
            "46f9b3269cb152d606a51aaad81f66a852072871",
            (*_CRITIC, Edit("import gym", "import gym_old as gym", "instead")),
            _CRITIC_ASKED,
        ),
        Version(
            "1d44f1356b12af93336cedbb12147d7410a7c94c",
            (*_CRITIC, Edit("import gym", "import gym_old as gym", "instead")),
            _CRITIC_ASKED,
        ),
        Version(
            "6fba007e1bee40f05496f04bc55168f0c5772fb3",
            (*_CRITIC, Edit("import gym", "import gym_new as gym", "instead")),
            _CRITIC_ASKED,
        ),
    ),
)

_QNET = (
    Edit("import torch", f"{IMPORT}\ntorch.manual_seed(3)\nrandom.seed(4)"),
    Edit("for n_epi in range(10000):", 'for n_epi in flor.loop("episode", range(6)):', "instead"),
    Edit("for i in range(10):", 'for i in flor.loop("update", range(2)):', "instead"),
    Edit("if memory.size()>2000:", "if memory.size()>34:", "instead"),
    Edit("optimizer.step()", 'flor.log("loss", loss.item())'),
)
_QNET_ASKED = {
    "q_mean": Edit("loss.backward()", 'flor.log("q_mean", q_a.mean().item())', "before"),
    "memory_size": Edit("if n_epi%print_interval==0 and n_epi!=0:", 'flor.log("memory_size", memory.size())', "before"),
    "grad_norm": Edit("loss.backward()", 'flor.log("grad_norm", float(q.fc3.weight.grad.norm()))'),
    "epsilon_now": Edit("epsilon = max(0.01, 0.08 - 0.01*(n_epi/200)) #Linear annealing from 8% to 1%", 'flor.log("epsilon_now", epsilon)'),
}  # fmt: skip
QNET = Program(
    name="dqn",
    address="https://github.com/seungeunrho/minimalRL",
    script="dqn.py",
    paths=("dqn.py",),
    files=AGENT.files,
    arguments=(),
    versions=(
        Version(
            "c6f5131a9bd82cfe14798869770adc1aaddf0d3d",
            (*_QNET, Edit("import gym", "import gym_old as gym", "instead")),
            _QNET_ASKED | {"grad_norm": None},  # a network of two layers has no third
        ),
        Version(
            "1d44f1356b12af93336cedbb12147d7410a7c94c",
            (*_QNET, Edit("import gym", "import gym_old as gym", "instead")),
            _QNET_ASKED,
        ),
        Version(
            "6fba007e1bee40f05496f04bc55168f0c5772fb3",
            (*_QNET, Edit("import gym", "import gym_new as gym", "instead")),
            _QNET_ASKED,
        ),
    ),
)

_PPO = (
    Edit("import torch", f"{IMPORT}\ntorch.manual_seed(3)"),
    Edit("for n_epi in range(10000):", 'for n_epi in flor.loop("episode", range(4)):', "instead"),
    Edit("for i in range(K_epoch):", 'for i in flor.loop("pass", range(2)):', "instead"),
    Edit("loss.mean().backward()", 'flor.log("loss", loss.mean().item())', "before"),
)
_PPO_ASKED = {
    "ratio_mean": Edit("loss.mean().backward()", 'flor.log("ratio_mean", ratio.mean().item())', "before"),
    "first_advantage": Edit("advantage = torch.tensor(advantage_lst, dtype=torch.float)", 'flor.log("first_advantage", advantage[0].item())'),
    "norm": Edit("self.optimizer.step()", 'flor.log("norm", float(self.fc1.weight.norm()))'),
    "steps": Edit("s, a, r, s_prime, done_mask, prob_a = self.make_batch()", 'flor.log("steps", len(s))'),
}  # fmt: skip
PPO = Program(
    name="ppo",
    address="https://github.com/seungeunrho/minimalRL",
    script="ppo.py",
    paths=("ppo.py",),
    files=AGENT.files,
    arguments=(),
    versions=(
        Version(
            "ad36fc37b522a9c1f1c1ba34b9e62451027bd7bf",
            (*_PPO, Edit("import gym", "import gym_old as gym", "instead")),
            _PPO_ASKED,
        ),
        Version(
            "a1d4e5920c59ae7391380a5b9c480f3922131219",
            (*_PPO, Edit("import gym", "import gym_old as gym", "instead")),
            _PPO_ASKED,
        ),
        Version(
            "6fba007e1bee40f05496f04bc55168f0c5772fb3",
            (*_PPO, Edit("import gym", "import gym_new as gym", "instead")),
            _PPO_ASKED,
        ),
    ),
)

# karpathy/minGPT: the loop in a class of another file, callbacks, configuration from the command line -------------------

_ADDER = (
    Edit("import os", "import sys\nsys.path.insert(0, '../..')"),
    Edit("import torch", IMPORT, file="mingpt/trainer.py"),
    Edit("while True:", 'for _ in flor.loop("iteration", range(6)):', "instead", "mingpt/trainer.py"),
)
_ADDER_LOSS = Edit("self.optimizer.step()", 'flor.log("loss", self.loss.item())', file="mingpt/trainer.py")
_ADDER_LOSS_OLD = Edit("optimizer.step()", 'flor.log("loss", self.loss.item())', file="mingpt/trainer.py")
_ADDER_ASKED = {
    "grad_norm": Edit(
        "self.loss.backward()",
        'flor.log("grad_norm", float(model.lm_head.weight.grad.norm()))',
        file="mingpt/trainer.py",
    ),
    "digits": Edit("x, y = batch", 'flor.log("digits", int(x.sum()))', file="mingpt/trainer.py"),
    "rate": Edit("model.train()", 'flor.log("rate", config.learning_rate)', file="mingpt/trainer.py"),
    "confidence": Edit(
        "logits, self.loss = model(x, y)",
        'flor.log("confidence", logits.softmax(-1).max().item())',
        file="mingpt/trainer.py",
    ),
}
ADDER = Program(
    name="minGPT adder",
    address="https://github.com/karpathy/minGPT",
    script="projects/adder/adder.py",
    folder="projects/adder",
    paths=("projects/adder", "mingpt"),
    arguments=("--model.model_type=gpt-nano", "--trainer.batch_size=4", "--trainer.num_workers=0"),
    versions=(
        Version("d9ea8781005caa32d023a9c56afbaa25f725f6b6", (*_ADDER, _ADDER_LOSS_OLD), _ADDER_ASKED),
        Version("acaadacd595dedf354a48852841824d51ce131af", (*_ADDER, _ADDER_LOSS_OLD), _ADDER_ASKED),
        Version("c4c650e3d53d29a391024fb57a10dede2ffefccc", (*_ADDER, _ADDER_LOSS), _ADDER_ASKED),
    ),
)

# karpathy/nanoGPT: settings that are executed, memory-mapped data, gradients that are accumulated -----------------------

_NANO = (
    Edit("import time", IMPORT),
    Edit("while True:", 'for _ in flor.loop("iteration", range(4)):', "instead", above="X, Y = get_batch('train') # fetch the very first batch"),
    Edit("scaler.update()", 'flor.log("loss", loss.item())'),
)  # fmt: skip
_NANO_ASKED = {
    "grad_norm": Edit(
        "# clip the gradient",
        'flor.log("grad_norm", float(model.lm_head.weight.grad.norm()))',
        "before",
    ),
    "tokens": Edit("X, Y = get_batch('train')", 'flor.log("tokens", int(X.sum()))', above="with ctx:"),
    "rate": Edit("# evaluate the loss on train/val sets and write checkpoints", 'flor.log("rate", lr)', "before"),
    "logit": Edit(
        "loss = loss / gradient_accumulation_steps # scale the loss to account for gradient accumulation",
        'flor.log("logit", logits.mean().item())',
    ),
}  # fmt: skip
_NANO_ARGUMENTS = (
    "--device=cpu", "--compile=False", "--eval_iters=1", "--eval_interval=100", "--log_interval=1", "--block_size=8", "--batch_size=2",
    "--n_layer=1", "--n_head=2", "--n_embd=8", "--dropout=0.1", "--dataset=tiny", "--gradient_accumulation_steps=2", "--warmup_iters=2",
    "--lr_decay_iters=9", "--dtype='float32'",
)  # fmt: skip
NANO = Program(
    name="nanoGPT",
    address="https://github.com/karpathy/nanoGPT",
    script="train.py",
    paths=("train.py", "model.py", "configurator.py"),
    # Two bytes a token.
    files={f"data/tiny/{name}.bin": "".join(chr(1 + n * n % 50) + chr(0) for n in range(400)) for name in ("train", "val")},
    arguments=_NANO_ARGUMENTS,
    versions=(
        Version("553f949f46e04a946e5ff2da6e4bb70a221ea1fc", _NANO, _NANO_ASKED),
        Version("1eaceae1931d79c248e441b7544efab8fa492523", _NANO, _NANO_ASKED),
        Version("dc81cb368ce3e5761f298726fb3fade1b0ca5901", _NANO, _NANO_ASKED),
    ),
)  # fmt: skip

PROGRAMS = (MAKEMORE, PYGCN, JOELNET, REGRESSION, SERIES, WORD_MODEL, AGENT, CRITIC, QNET, PPO, ADDER, NANO)
