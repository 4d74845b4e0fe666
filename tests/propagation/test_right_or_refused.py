"""A statement goes to its place, or is refused with the true reason: on the right side of all that makes what it reads."""

from __future__ import annotations

import ast

import pytest

from flor_dagster.propagation import Propagated, propagate

# New version, old version, and the line behind which the statement goes with the line that it then is; or what the refusal says.
CASES: dict[str, tuple[str, str, tuple[str, str] | str]] = {
    "a for that became a while": (
        """import flor
def train(model, data, steps):
    i = 0
    best = 0.0
    while i <= steps:
        x, y = data.next()
        if i % 100 == 0 and i > 1:
            hits = []
            for a, b in data.held_out():
                hits.append((model(a) == b).mean())
            score = sum(hits) / len(hits)
            if score > best:
                best = score
                print("held out", i, score)
        if i == steps: break
        model.reset_counters()
        loss = run_step(model, x, y)
        value = loss.numpy()
        flor.log("loss", value)
        print(i, f"{value:.3f}", model.counters())
        i += 1
""",
        """def train(model, data, steps):
    x, y = data.first()
    for i in range(max(1, steps)):
        if i % 10 == 0 and steps != 1:
            out = model(data.test_x)
            hits = out.numpy().argmax(axis=1)
            print("held out", sum(hits == data.test_y))
        if steps == 0: break
        loss = run_step(model, x, y, data.rate)
        x, y = data.fetch()
        value = loss.numpy()[0]
        print(i, f"{value:.3f}")
""",
        ("        value = loss.numpy()[0]", '        flor.log("loss", value)'),
    ),
    "the only loop of a function with another header": (
        """import flor
class Trainer:
    def report(self):
        failed = False
        for k, (count, net) in enumerate(zip(self.counts.tolist(), self.owner.nets)):
            if count > 0 or isinstance(net, Empty):
                continue
            flor.log("untrained", k + 1)
            failed = True
        if failed:
            print("stop early, some nets are untrained")
""",
        """class Trainer:
    def report(self):
        for k, count in enumerate(self.counts.tolist()):
            if count > 0:
                continue
        if any(self.counts == 0):
            print("stop early, some nets are untrained")
""",
        ("                continue", '            flor.log("untrained", k + 1)'),
    ),
    "a loop that was put around part of a loop": (
        """import flor
class PPO:
    def train(self, rounds, size):
        for it in range(rounds):
            kls = []
            for batch in self.buffer.get(size):
                obs, act, old_logp, adv, ret = batch
                values, logp = self.policy.stats(obs, act)
                adv = (adv - adv.mean()) / (adv.std() + 1e-8)
                ratio = (logp - old_logp).exp()
                first = adv * ratio
                second = adv * ratio.clamp(1 - self.clip, 1 + self.clip)
                flor.log("second", second)
                policy_loss = -min(first, second).mean()
                loss = policy_loss + self.coef * (ret - values).pow(2).mean()
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                kls.append((old_logp - logp).mean())
            if max(kls) > self.target:
                break
""",
        """class PPO:
    def train(self, rounds, size):
        for it in range(rounds):
            batch = self.buffer.sample(size)
            obs, act, old_logp, adv, ret = batch
            values, logp = self.policy.stats(obs, act)
            adv = (adv - adv.mean()) / (adv.std() + 1e-8)
            ratio = (logp - old_logp).exp()
            first = adv * ratio
            second = adv * ratio.clamp(1 - self.clip, 1 + self.clip)
            policy_loss = -min(first, second).mean()
            loss = policy_loss + self.coef * (ret - values).pow(2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
""",
        (
            "            second = adv * ratio.clamp(1 - self.clip, 1 + self.clip)",
            '            flor.log("second", second)',
        ),
    ),
    "what ends in assert false reaches nothing": (
        """import flor, copy
def main(args, model):
    optimizer = None
    if args.train_data:
        optimizer = create_optimizer(args, model.parameters())
        if is_master(args):
            defaults = copy.deepcopy(optimizer.defaults)
            defaults["weight_decay"] = args.wd
            flor.log("optimizer", (type(optimizer).__name__, defaults))
    run(model, optimizer)
""",
        """import copy
def main(args, model):
    optimizer = None
    if args.train_data:
        opt = args.opt.lower()
        if opt.startswith("timm/"):
            optimizer = create_timm(model, opt, lr=args.lr)
        elif opt == "adamw":
            optimizer = optim.AdamW(split_by_decay(model.named_parameters()), betas=(args.b1, args.b2), eps=args.eps)
        else:
            assert False, f"unknown optimizer {opt}"
        if is_master(args):
            defaults = copy.deepcopy(optimizer.defaults)
            defaults["weight_decay"] = args.wd
    run(model, optimizer)
""",
        (
            '            defaults["weight_decay"] = args.wd',
            '            flor.log("optimizer", (type(optimizer).__name__, defaults))',
        ),
    ),
    "two copies that became one function": (
        """import flor, os
def train(opts, mill, sacks):
    def save_mill(name, grain):
        os.makedirs(opts.out, exist_ok=True)
        path = os.path.join(opts.out, name)
        flor.log("saving", path)
        write_out(path, grain, opts.dtype)
        if opts.shop is not None:
            send(opts, path, "/" + name)
    for turn in range(opts.turns):
        for batch in sacks:
            mill.step(batch)
        if opts.every is not None and (turn + 1) % opts.every == 0:
            grain = mill.grain().clone()
            save_mill(name_of(opts, turn + 1), grain)
    grain = mill.grain().clone()
    if opts.main:
        save_mill(final_name(opts), grain)
        print("mill saved.")
""",
        """import os
def train(opts, mill, sacks):
    for turn in range(opts.turns):
        for batch in sacks:
            mill.step(batch)
        if opts.every is not None:
            def keep_it():
                name = name_of(opts, turn + 1) + "." + opts.kind
                path = os.path.join(opts.out, name)
                write_out(path, grain, opts.dtype)
                if opts.shop is not None:
                    send(opts, path, "/" + name)
            grain = mill.grain().clone()
            at_round_end(opts, keep_it, turn + 1)
    grain = mill.grain().clone()
    if opts.main:
        os.makedirs(opts.out, exist_ok=True)
        name = final_name(opts) + "." + opts.kind
        path = os.path.join(opts.out, name)
        write_out(path, grain, opts.dtype)
        if opts.shop is not None:
            send(opts, path, "/" + name)
        print("mill saved.")
""",
        "weak-place",
    ),
    "a call that sets what is read stays before it": (
        """import flor, os
def save(args, trainer, names, state):
    timer = StopWatch()
    timer.start()
    names = [os.path.join(args.dir, n) for n in names]
    if len(names) > 0:
        trainer.save(names[0], state)
        for n in names[1:]:
            copy(names[0], n)
        timer.stop()
        flor.log("saved", (names[0], timer.sum))
    if args.keep > 0:
        names = listing(args.dir)
        for n in names[args.keep:]:
            os.remove(n)
""",
        """import os
def save(args, trainer, names, state):
    timer = StopWatch()
    timer.start()
    names = [os.path.join(args.dir, n) for n in names]
    if len(names) > 0:
        for n in names:
            trainer.save(n, state)
    if args.keep > 0:
        names = listing(args.dir)
        for n in names[args.keep:]:
            os.remove(n)
    timer.stop()
""",
        "other-definition",
    ),
    "a branch that moved into the called function": (
        """import flor
def work(options, several=False):
    jobs = read_jobs(options)
    if several:
        options.number = join(options)
        flor.log("number", options.number)
    shelf = fill(jobs, options)
    empty(shelf)
def worker(k, options):
    options.slot = k
    work(options, several=True)
""",
        """def work(options):
    jobs = read_jobs(options)
    shelf = fill(jobs, options)
    empty(shelf)
def worker(k, options):
    options.slot = k
    options.number = join(options)
    work(options)
""",
        ("    options.number = join(options)", '    flor.log("number", options.number)'),
    ),
    "parts of an object that another one has not": (
        """import flor
def run(tank, big):
    if big:
        pump = BigPump(tank, speed=9)
    else:
        pump = SmallPump(tank, speed=2)
    for hour in range(24):
        narrow(pump.valve, hour)
        flor.log("width", pump.valve.width)
        for minute in range(60):
            tank.fill(minute)
        level = pump.drain(tank)
        tank.close()
""",
        """def run(tank, big):
    if big:
        valve = WideValve(tank, speed=9)
    else:
        valve = ThinValve(tank, speed=2)
    for hour in range(24):
        for minute in range(60):
            tank.fill(minute)
        level = tank.level()
        valve.open(level)
        valve.turn()
        tank.close()
""",
        "no-attribute",
    ),
    "a script that became a function": (
        """import flor
def main(options):
    oven, dough, clock = heat(options)
    first = 0
    if options.again:
        first = remembered(options)
    for day in range(first, options.days):
        oven.open()
        shelf = Shelf(options.width)
        for n, loaf in enumerate(dough):
            if options.again and n < options.skip:
                continue
            warmth = oven.warm(loaf, options.minutes)
            crust = brown(warmth, loaf)
            if crust.dark:
                oven.cool(crust)
                clock.tick()
            shelf.put(loaf)
            tell({"crust": crust.value, "time": clock.now()})
        shelf.close()
        flor.log("time", clock.now())
        oven.wait()
        if day % options.every == 0:
            store(oven)
if __name__ == "__main__":
    main(read())
""",
        """days = 30
oven, dough, clock = heat()
for day in range(days):
    oven.open()
    box = Box(len(dough), unit="loaf")
    for n, loaf in enumerate(dough):
        pieces = cut(loaf)
        for piece in range(len(pieces)):
            warm(pieces[piece])
        if n % 8 == 0:
            crust = brown(pieces, loaf)
            oven.hold(crust)
        else:
            crust = brown(pieces, loaf)
            oven.cool(crust)
            clock.tick()
        box.put(loaf)
    oven.shut()
    picture(oven, day)
""",
        ("    oven.shut()", '    flor.log("time", clock.now())'),
    ),
    "a store into what is read stays before it": (
        """import flor
step = 0
while True:
    loss, lrm, dt = run(step)
    print(step, loss)
    if step % 100 == 0:
        row = {"step": step, "loss": loss, "lrm": lrm, "dt": dt, "epoch": epoch_of(step)}
        flor.log("row", row)
    step += 1
""",
        """step = 0
while True:
    loss, lrm, dt = run(step)
    print(step, loss)
    if step % 100 == 0:
        row = {"step": step, "loss": loss, "lrm": lrm, "dt": dt}
        if clip:
            row["norm"] = norm
    step += 1
""",
        ('            row["norm"] = norm', '        flor.log("row", row)'),
    ),
}


def ask(new: str, old: str) -> Propagated:
    return propagate(new, old, [next(n for n, line in enumerate(new.split("\n"), 1) if "flor.log(" in line)])


def check(new: str, old: str, expected: tuple[str, str] | str) -> None:
    result = ask(new, old)
    if isinstance(expected, str):
        assert [r.kind for r in result.refusals] == [expected], result.source
        return
    assert not result.refusals, result.refusals
    lines = result.source.split("\n")
    at = result.placements[0].lines[1] - 1
    assert (lines[at - 1], lines[at]) == expected


@pytest.mark.parametrize("case", CASES)
def test_a_statement_goes_to_its_place_or_is_refused(case: str) -> None:
    check(*CASES[case])


def training(before: str, behind: str = "", *, log: str = "", function: str = "") -> str:
    """A loop that makes and uses `g`; `log` stands where `before` is over."""
    lines = [
        "import flor",
        "from tools import clip, norm, use",
        *function.split("\n"),
        "def fit(model, data):",
        "    for x in data:",
    ]
    lines += [
        f"        {line}" for line in (*before.split("\n"), log, *behind.split("\n"), "model.step(g)") if line
    ]
    return "\n".join(lines) + "\n"


LOG = 'flor.log("g", norm(g))'
CLIPPED = "def clipped(x):\n    return clip(gradient(x))\ndef gradient(x):\n    return 2 * x"
OTHER_VALUES = {
    "made by a function that does both": (
        training("g = gradient(x)", "g = clip(g)", log=LOG, function=CLIPPED),
        training("g = clipped(x)", function=CLIPPED),
    ),
    "made at once": (training("g = model.grad(x)", "g = clip(g)", log=LOG), training("g = clip(model.grad(x))")),
    "in place": (training("g = model.grad(x)", "g /= 2", log=LOG), training("g = model.grad(x) / 2")),
    "in a function that changed": (
        training("g = gradient(x)", "g = clip(g)", log=LOG, function="def gradient(x):\n    return 2 * x"),
        training("g = gradient(x)", function="def gradient(x):\n    g = 2 * x\n    return clip(g)"),
    ),
    "an attribute": (
        training("self.g = model.grad(x)", "self.g = clip(self.g)", log='flor.log("g", self.g)'),
        training("self.g = clip(model.grad(x))"),
    ),
    "scaled before the statement by the newest version only": (
        training("g = model.grad(x)\ng = g / 3", log=LOG), training("g = model.grad(x)")
    ),
    "scaled in place before the statement by the newest version only": (
        training("g = model.grad(x)\ng *= 3", log=LOG), training("g = model.grad(x)")
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", OTHER_VALUES)
def test_a_value_that_the_old_version_never_has_by_itself_is_refused(how: str) -> None:
    check(*OTHER_VALUES[how], "other-definition")


RIGHT_VALUES = {
    "a transformation that came later, behind the statement": (
        training("g = model.grad(x)", "g = clip(g)", log=LOG), training("g = model.grad(x)"), "g = model.grad(x)"
    ),
    "a transformation that both have": (
        training("g = model.grad(x)", "g = clip(g)", log=LOG),
        training("g = model.grad(x)\ng = clip(g)"),
        "g = model.grad(x)",
    ),
    "one that only the old version has": (
        training("g = model.grad(x)", "use(g)", log=LOG), training("g = model.grad(x)\ng = clip(g)\nuse(g)"), "g = model.grad(x)"
    ),
    "another form of the same value": (
        training("g = model.grad(x)\ng = g.cpu()", log=LOG), training("g = model.grad(x)"), "g = model.grad(x)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", RIGHT_VALUES)
def test_a_statement_follows_the_definition_that_it_reads(how: str) -> None:
    new, old, anchor = RIGHT_VALUES[how]
    check(new, old, (f"        {anchor}", f"        {LOG}"))


INLINE = """\
import flor
model = build()
for epoch in range(3):
    order = shuffled(data)
    total = 0.0
    for start in range(0, len(data), 32):
        total += step(model, data[start])
    print(f"epoch {epoch} loss {total / len(data)}")
"""
EXTRACTED = """\
import flor
def train_epoch(model, data):
    total = 0.0
    for start in range(0, len(data), 32):
        total += step(model, data[start])
    return total
def main():
    model = build()
    for epoch in range(3):
        loss = train_epoch(model, data)
        flor.log("norm", (model.weight ** 2).sum())
        print(f"epoch {epoch} {loss}")
main()
"""


def test_what_is_logged_behind_a_training_function_stays_behind_the_training_that_stands_in_the_loop() -> (
    None
):
    result = ask(EXTRACTED, INLINE)
    for placement in result.placements:
        assert placement.lines[0] > 7
    assert [line for line in result.source.split("\n") if "flor.log" not in line] == INLINE.split("\n")


CROSSED = {
    "a method": ("timer.stop()", "timer.sum"),
    "a key": ('row["loss"] = f(x)', "row"),
    "an attribute": ("row.loss = f(x)", "row.loss"),
    "a function": ("fill(row, x)", "row"),
    "an argument by name": ("fill(x, into=row)", "row"),
    "several at once": ("fill([row, x])", "row"),
}


@pytest.mark.parametrize("how", CROSSED)
def test_no_statement_crosses_what_changes_the_things_that_it_reads(how: str) -> None:
    change, read = CROSSED[how]
    head = "import flor\ndef go(row, timer, x):\n    a = first(x)\n    b = second(a)\n"
    new = f'{head}    {change}\n    flor.log("Q", {read})\n    c = third(b)\n    d = fourth(c)\n'
    old = f"{head}    c = third(b)\n    d = fourth(c)\n    {change}\n"
    result = ask(new, old)
    for placement in result.placements:
        assert placement.lines[0] > old.split("\n").index(f"    {change}") + 1
    for refusal in result.refusals:
        assert refusal.kind == "other-definition"
        assert ast.unparse(ast.parse(change)) in refusal.sentence


def test_a_loop_that_stands_there_word_for_word_is_not_said_to_be_missing() -> None:
    new = "import flor\ndef go(xs):\n    for x in xs:\n        flor.log('Q', x)\n        use(x)\n"
    old = "def other(xs):\n    for x in xs:\n        a = f(1)\n        b = g(2)\n        h(a, b)\n"
    for refusal in ask(new, old).refusals:
        assert "does not have" not in refusal.sentence or "loop" not in refusal.sentence
