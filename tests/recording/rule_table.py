"""Small trainings, at least one for every sentence of the rules of capture and skipping; see `rule_lab`."""

from __future__ import annotations

from tests.recording.rule_lab import Rule

# fmt: off
OTHERS: dict[str, str] = {
    'own_state.py': 'value = 0\nitems = []\n__tally__ = [0]\ndef add(x):\n    global value\n    value += x\n    items.append(x)\n',
    'late_mod.py': 'calls = []\ndef call(x):\n    calls.append(x)\n',
}

RULES: dict[str, Rule] = {
    'arr_alias': Rule(asked='(a[0], len(a))', script="""\
import array
import flor_dagster as flor
def inner(a):
    for step in flor.loop('step', range(3)):
        a[0] += step; a.append(1.0)
def main():
    a = array.array('d', [0.0])
    for epoch in flor.loop('epoch', range(4)):
        inner(a)
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'before_after': Rule(asked="(float(was.sum()), float(model.params['w'].sum()))", script="""\
import numpy as np
import flor_dagster as flor
class Model:
    def __init__(self):
        self.params = {'w': np.zeros(3), 'b': np.zeros(2)}
def train_epoch(model):
    for step in flor.loop('step', range(3)):
        model.params['w'] = model.params['w'] - 0.1 * (step + 1)
def main():
    model = Model()
    for epoch in flor.loop('epoch', range(4)):
        was = model.params['w']
        train_epoch(model)
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'own_track': Rule(asked='STATS[-1]', reason='consumed by `track', script="""\
import flor_dagster as flor
STATS = []
def track(it):
    n = 0
    for x in it:
        n += 1
        yield x
    STATS.append(n)
def main():
    for epoch in flor.loop('epoch', range(4)):
        for step in track(flor.loop('step', range(3))):
            y = step
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'else_on_a_line': Rule(asked='done', script="""\
import flor_dagster as flor
def main():
    for epoch in flor.loop('epoch', range(4)):
        done = False
        for step in flor.loop('step', range(3)):
            n = step
        else: done = True
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'mangled': Rule(asked='__total', script="""\
import flor_dagster as flor
class T:
    def fit(self):
        __total = 0
        for epoch in flor.loop('epoch', range(4)):
            for step in flor.loop('step', range(3)):
                __total += step
            flor.log('epoch_over', epoch)
            #?
T().fit()
"""),
    'dunder_global': Rule(top='import own_state', body='own_state.__tally__[0] += 1', asked='own_state.__tally__[0]'),
    'sys_modules': Rule(top='import own_state', body="sys.modules['own_state'].items.append(step)", asked='len(own_state.items)'),
    'enum_member_state': Rule(top="""\
import enum
class C(enum.Enum):
    RED = 1
    BLUE = 2
""", before='C.RED.hits = 0', body='C.RED.hits += 1', asked='C.RED.hits'),
    'redirected': Rule(before="""\
buf = io.StringIO()
stack = contextlib.redirect_stdout(buf)
stack.__enter__()""", body='print(step)', asked='len(buf.getvalue())', alone=True),
    'log_handler': Rule(top="""\
import logging
class H(logging.Handler):
    def __init__(self):
        super().__init__(); self.seen = []
    def emit(self, r):
        self.seen.append(r.getMessage())
h = H()
log = logging.getLogger('x')
log.addHandler(h)
log.setLevel('INFO')
""", body="log.info('s %s', step)", asked='len(h.seen)', alone=True),
    'warnings_recorded': Rule(asked='len(w)', script="""\
import warnings
import flor_dagster as flor
def main():
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        for epoch in flor.loop('epoch', range(4)):
            for step in flor.loop('step', range(3)):
                warnings.warn('x')
            flor.log('epoch_over', epoch)
            #?
main()
""", alone=True),
    'file_size_via_method': Rule(top="""\
class W:
    def __init__(self):
        self.f = open('out.txt', 'w')
    def note(self, x):
        self.f.write(str(x))
    def size(self):
        return self.f.tell()
""", before='w = W()', body='w.note(step)', asked='w.size()', alone=True),
    'thread_beside': Rule(top="""\

import queue
q = queue.Queue()
results = []
def worker():
    while True:
        x = q.get()
        results.append(x)
        q.task_done()
threading.Thread(target=worker, daemon=True).start()
""", body='q.put(step); q.join()', asked='len(results)', reason='runs `worker` beside it', alone=True),
    'locked': Rule(top='lock = threading.Lock()', body='lock.acquire(blocking=False)', asked='lock.locked()', alone=True),
    'file_best': Rule(body="open('best.txt', 'w').write(str(epoch * 10 + step))", tail="got = open('best.txt').read()", asked='got', alone=True),
    'file_append': Rule(body="open('all.txt', 'a').write('x')", tail="got = len(open('all.txt').read())", asked='got', alone=True),
    'library_attribute': Rule(body="np.my_count = getattr(np, 'my_count', 0) + 1", asked='np.my_count'),
    'library_class_attribute': Rule(before='collections.Counter.seen = 0', body='collections.Counter.seen += 1', asked='collections.Counter.seen'),
    'contextvar': Rule(top="""\
import contextvars
V = contextvars.ContextVar('V', default=0)""", body='V.set(V.get() + 1)', tail='got = V.get()', asked='got', reason='`V` is a _contextvars.ContextVar'),
    'decimal_context': Rule(asked='c.prec', script="""\
import decimal
import flor_dagster as flor
def inner(c):
    for step in flor.loop('step', range(3)):
        c.prec += 1
def main():
    c = decimal.Context(prec=3)
    for epoch in flor.loop('epoch', range(4)):
        inner(c)
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'cached_partial': Rule(top="""\
def f(xs, k):
    return xs
CALLS=[]
cached = functools.lru_cache(functools.partial(f, CALLS)) if False else functools.lru_cache(functools.partial(lambda k: [k]))""", body='cached(1).append(step)', asked='len(cached(1))', reason='cache of results', alone=True),
    'stdout_replaced': Rule(before="""\
buf = io.StringIO()
old = sys.stdout""", body='sys.stdout = buf', tail="print('tail')", asked='len(buf.getvalue())', alone=True),
    'nested_function_hook': Rule(asked='(x, y)', script="""\
import flor_dagster as flor
x = 5
def main():
    def mid():
        x = 0
        def inc():
            nonlocal x
            x += 1
        inc()
        return x
    for epoch in flor.loop('epoch', range(4)):
        for step in flor.loop('step', range(3)):
            y = mid()
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'torch_global_hook': Rule(asked='len(seen)', script="""\
import torch
import flor_dagster as flor
seen = []
def hook(m, i, o):
    seen.append(float(o.sum()))
torch.nn.modules.module.register_module_forward_hook(hook)
net = torch.nn.Linear(2, 2)
def main():
    for epoch in flor.loop('epoch', range(4)):
        for step in flor.loop('step', range(3)):
            y = net(torch.ones(1, 2))
        flor.log('epoch_over', epoch)
        #?
main()
""", alone=True),
    'file_exists': Rule(body="open(f'e{epoch}.txt', 'w').write('x')", tail="got = os.path.exists(f'e{epoch}.txt')", asked='got', alone=True),
    'data_replaced': Rule(asked='(float(was[0]), float(m.inner.w[0]))', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

class M:
    def __init__(self): self.inner = type('I', (), {})(); self.inner.w = np.zeros(2)
def go(m):
    for step in flor.loop('step', range(3)):
        m.inner.w = m.inner.w + 1
def main():
    m = M()
    for epoch in flor.loop('epoch', range(4)):
        was = m.inner.w
        go(m)
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'swap_aliases': Rule(asked="(x, y, box['a'] is x, box['b'] is y)", script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

def go(box):
    for step in flor.loop('step', range(3)):
        box['a'], box['b'] = box['b'], box['a']
        box['a'].append(step)
def main():
    x, y = [0], [1]
    box = {'a': x, 'b': y}
    for epoch in flor.loop('epoch', range(4)):
        go(box)
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'moved_to_new_place': Rule(asked='(held, t.prev, t.cur)', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

class T:
    pass
def go(t):
    for step in flor.loop('step', range(3)):
        t.prev = t.cur
        t.cur = [step]
def main():
    t = T(); t.cur = [9]
    for epoch in flor.loop('epoch', range(4)):
        held = t.cur
        go(t)
        held.append(5)
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'popped_from_queue': Rule(asked='(items, done, len(q))', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

def go(q, done):
    for step in flor.loop('step', range(2)):
        done.append(q.popleft())
        done[-1].append(step)
def main():
    items = [[i] for i in range(12)]
    q, done = collections.deque(items), []
    for epoch in flor.loop('epoch', range(4)):
        go(q, done)
        items[2 * epoch].append('x')
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'dict_rebuilt': Rule(asked="(s.state['base'], base is s.state['base'])", script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

class S: pass
def go(s):
    for step in flor.loop('step', range(2)):
        s.state = {**s.state, 'k%d' % step: [step]}
def main():
    s = S(); s.state = {'base': [0]}
    base = s.state['base']
    for epoch in flor.loop('epoch', range(4)):
        go(s)
        base.append(epoch)
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'ema': Rule(before='ema = np.zeros(3)', body='ema = 0.9 * ema + 0.1 * np.random.rand(3)', asked='float(ema.sum())'),
    'best_copy': Rule(before='w = np.zeros(3); best = None', body="""\
w += np.random.randn(3)
if best is None or w.sum() > best[0]: best = (w.sum(), w.copy())""", asked='(float(best[0]), float(best[1].sum()), float(w.sum()))'),
    'optimizer_anew': Rule(asked="(type(opt).__name__, float(net.weight.sum()), float(sum(v.sum() for s in opt.state.values() for v in s.values() if hasattr(v, 'sum'))))", script="""\

import torch
import flor_dagster as flor
torch.manual_seed(0)
net = torch.nn.Linear(3, 2)
opt = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
def main():
    global opt
    for epoch in flor.loop('epoch', range(4)):
        for step in flor.loop('step', range(3)):
            if epoch == 2 and step == 1:
                opt = torch.optim.Adam(net.parameters(), 0.01)
            opt.zero_grad(); loss = net(torch.randn(4, 3)).pow(2).mean(); loss.backward(); opt.step()
        flor.log('epoch_over', epoch)
        #?
main()
""", alone=True),
    'data_attr_replaced': Rule(asked='(float(was.sum()), float(net.weight.sum()))', script="""\

import torch
import flor_dagster as flor
torch.manual_seed(0)
net = torch.nn.Linear(3, 2)
def go(net):
    for step in flor.loop('step', range(3)):
        for p in net.parameters():
            p.data = p.data - 0.1 * torch.randn_like(p)
def main():
    for epoch in flor.loop('epoch', range(4)):
        was = net.weight.data
        go(net)
        flor.log('epoch_over', epoch)
        #?
main()
""", alone=True),
    'data_in_place': Rule(asked='(float(was.sum()), float(copy.sum()), float(net.weight.sum()))', script="""\

import torch
import flor_dagster as flor
torch.manual_seed(0)
net = torch.nn.Linear(3, 2)
def go(net):
    for step in flor.loop('step', range(3)):
        for p in net.parameters():
            p.data -= 0.1 * torch.randn_like(p)
def main():
    for epoch in flor.loop('epoch', range(4)):
        was = net.weight.detach()
        copy = was.clone()
        go(net)
        flor.log('epoch_over', epoch)
        #?
main()
""", alone=True),
    'pandas_grows': Rule(asked="(len(df), float(df['b'].sum()))", script="""\
import pandas as pd
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

def go(df):
    for step in flor.loop('step', range(3)):
        df.loc[len(df)] = [step, random.random()]
def main():
    random.seed(1)
    df = pd.DataFrame({'a': [0.0], 'b': [0.0]})
    for epoch in flor.loop('epoch', range(4)):
        go(df)
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'array_resized': Rule(asked='(len(a), float(a.sum()))', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

def go(a):
    for step in flor.loop('step', range(2)):
        a.resize(len(a) + 1, refcheck=False)
        a[-1] = step
def main():
    a = np.zeros(1)
    for epoch in flor.loop('epoch', range(4)):
        go(a)
        flor.log('epoch_over', epoch)
        #?
main()
""", alone=True),
    'set_of_objects': Rule(asked='a.hits', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

class N:
    def __init__(self): self.hits = 0
def go(nodes):
    for step in flor.loop('step', range(2)):
        for n in nodes: n.hits += 1
def main():
    a = N(); nodes = {a}
    for epoch in flor.loop('epoch', range(4)):
        go(nodes)
        flor.log('epoch_over', epoch)
        #?
main()
""", alone=True),
    'dict_by_objects': Rule(asked='(d[a], d[b], a.x, b.x)', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

class N: pass
def go(d):
    for step in flor.loop('step', range(2)):
        for k in d: d[k] += 1; k.x = d[k]
def main():
    a, b = N(), N(); d = {a: 0, b: 1}
    for epoch in flor.loop('epoch', range(4)):
        go(d)
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'generator_closed_over': Rule(top="""\
def make():
    n = 0
    while True:
        n += 1
        yield n
g = make()
def use():
    return next(g)""", body='x = use()', asked='x', reason='`g` is a'),
    'star_targets': Rule(asked='(i, a, b, s)', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

def main():
    for epoch in flor.loop('epoch', range(4)):
        for i, (a, *b) in enumerate(flor.loop('step', [(1, 2, 3), (4, 5, 6)])):
            s = a + sum(b) + epoch
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'target_attribute': Rule(asked="(o.x, d['k'], s)", script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

class O: pass
def main():
    o, d = O(), {}
    for epoch in flor.loop('epoch', range(4)):
        for o.x, d['k'] in flor.loop('step', [(1, epoch), (2, epoch)]):
            s = o.x
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'walrus': Rule(body='if (half := step // 2) > -1: last = half', asked='(half, last)'),
    'walrus_in_comprehension': Rule(body='xs = [y := step + i for i in range(3)]', asked='(y, xs)'),
    'match_statement': Rule(body="""\
match (step, epoch):
    case (0, e): kind = ('zero', e)
    case (s, _): kind = ('other', s)""", asked='kind'),
    'exception_kept': Rule(before='last = None', body="""\
try:
    raise ValueError(step, [epoch])
except ValueError as e:
    last = e""", asked='last.args'),
    'exception_traceback': Rule(before='last = None', body="""\
try:
    raise ValueError(step)
except ValueError as e:
    last = e""", asked='last.__traceback__ is None', alone=True),
    'nested_functions_as_loops': Rule(asked='(total, got)', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

def main():
    total = 0
    def inner(e):
        nonlocal total
        for step in flor.loop('step', range(3)):
            total += step + e
        return step
    for epoch in flor.loop('epoch', range(4)):
        got = inner(epoch)
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'generator_function_without_yield_in_body': Rule(asked='got', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

def gen(n):
    total = 0
    for step in flor.loop('step', range(n)):
        total += step
    yield total
    yield step
def main():
    for epoch in flor.loop('epoch', range(4)):
        got = list(gen(epoch + 1))
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'raise_in_body': Rule(asked='(n, step)', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

SEEN = []
def main():
    for epoch in flor.loop('epoch', range(4)):
        try:
            for step in flor.loop('step', range(3)):
                SEEN.append(step)
                if step == 1: raise KeyError
        except KeyError:
            n = len(SEEN)
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'break_in_finally': Rule(asked='(n, step)', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

def main():
    n = 0
    for epoch in flor.loop('epoch', range(4)):
        for step in flor.loop('step', range(5)):
            try:
                if step == 2: break
            finally:
                n += 1
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'break_in_with': Rule(asked='(len(N), step)', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

N = []
@contextlib.contextmanager
def note():
    yield
    N.append(1)
def main():
    for epoch in flor.loop('epoch', range(4)):
        for step in flor.loop('step', range(5)):
            with note():
                if step == 2: break
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'with_tqdm': Rule(asked='(n, i, step)', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

import tqdm
def main():
    n = 0
    for epoch in flor.loop('epoch', range(4)):
        for i, step in enumerate(tqdm.tqdm(flor.loop('step', range(3)), disable=True)):
            n += step * i
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'weakrefs': Rule(asked='(len(reg), ref().k, len(keep))', reason='`reg` is a weak set', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

import weakref
class N: pass
def main():
    keep = [N()]; ref = weakref.ref(keep[0]); reg = weakref.WeakSet(keep)
    for epoch in flor.loop('epoch', range(4)):
        for step in flor.loop('step', range(3)):
            n = N(); n.k = step; reg.add(n)
            if step == 1: keep.append(n)
            ref = weakref.ref(keep[-1])
            del n
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'slots': Rule(top="""\
class P:
    __slots__ = ('x', 'ys')
    def __init__(self): self.x = 0; self.ys = []""", before='p = P()', body='p.x += step; p.ys.append(step)', asked='(p.x, len(p.ys))'),
    'property_and_descriptor': Rule(top="""\
class D:
    def __init__(self): self.v = {}
    def __get__(self, o, t=None): return self.v.get(id(o), 0) if o is not None else self
    def __set__(self, o, x): self.v['n'] = x
class C:
    d = D()
c = C()""", body='c.d = step + epoch', asked="C.__dict__['d'].v['n']"),
    'metaclass_registry': Rule(top="""\
class Meta(type):
    made = []
    def __call__(cls, *a):
        o = super().__call__(*a); Meta.made.append(1); return o
class C(metaclass=Meta):
    pass""", body='c = C()', asked='len(Meta.made)'),
    'lru_on_method': Rule(top="""\
class C:
    @functools.lru_cache(None)
    def f(self, k): return [k]
c = C()""", body='c.f(1).append(step)', asked='len(c.f(1))', reason='cache of results'),
    'cached_property': Rule(top="""\
class C:
    @functools.cached_property
    def f(self): return [0]
c = C()""", body='c.f.append(step)', asked='len(c.f)'),
    'singledispatch': Rule(top="""\
@functools.singledispatch
def f(x): return 0
""", body='f.register(float, lambda x, s=step: s)', asked='f(1.0)', reason='mappingproxy', alone=True),
    'socket_global': Rule(top="""\
import socket
a, b = socket.socketpair()""", body="a.send(b'x')", reason='belongs to its process'),
    'ctypes_array': Rule(asked='list(a)', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

import ctypes
def go(a):
    for step in flor.loop('step', range(3)):
        a[step] += 1
def main():
    a = (ctypes.c_int * 4)()
    for epoch in flor.loop('epoch', range(4)):
        go(a)
        flor.log('epoch_over', epoch)
        #?
main()
""", alone=True),
    'element_tree': Rule(asked='len(r)', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

import xml.etree.ElementTree as ET
def go(r):
    for step in flor.loop('step', range(3)):
        ET.SubElement(r, 'x')
def main():
    r = ET.Element('r')
    for epoch in flor.loop('epoch', range(4)):
        go(r)
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'module_level': Rule(asked='(total, step)', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

total = 0
for epoch in flor.loop('epoch', range(4)):
    for step in flor.loop('step', range(3)):
        total += step * random.random() * 0 + step
    flor.log('epoch_over', epoch)
    #?
"""),
    'module_level_import_late': Rule(asked='len(late_mod.calls)', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

total = 0
for epoch in flor.loop('epoch', range(4)):
    for step in flor.loop('step', range(3)):
        import late_mod
        late_mod.call(step)
    flor.log('epoch_over', epoch)
    #?
"""),
    'list_grows_while_iterated': Rule(asked='(epoch, len(work))', script="""\
import numpy as np, random, sys, os, collections, functools, itertools, io, contextlib, threading
import flor_dagster as flor

def main():
    work = [1]
    for epoch in flor.loop('epoch', work):
        for step in flor.loop('step', range(2)):
            if len(work) < 4 and step == 1: work.append(epoch + 1)
        flor.log('epoch_over', epoch)
        #?
main()
"""),
    'flush_denormal': Rule(asked='y > 0', script="""\

import torch
import flor_dagster as flor
def main():
    for epoch in flor.loop('epoch', range(4)):
        for step in flor.loop('step', range(2)):
            torch.set_flush_denormal(epoch >= 1)
        y = float((torch.tensor([1e-40]) * torch.tensor([0.5])).item())
        flor.log('epoch_over', epoch)
        #?
    torch.set_flush_denormal(False)
main()
""", alone=True),
    'printoptions': Rule(body='np.set_printoptions(precision=epoch + 1)', tail='text = str(np.array([1/3]))', asked='text', reason="numpy's print options", alone=True),
    'sdp': Rule(asked='y', reason='scaled dot product attention', script="""\

import torch
import flor_dagster as flor
def main():
    for epoch in flor.loop('epoch', range(4)):
        for step in flor.loop('step', range(2)):
            torch.backends.cuda.enable_flash_sdp(epoch % 2 == 0)
        y = torch.backends.cuda.flash_sdp_enabled()
        flor.log('epoch_over', epoch)
        #?
main()
""", alone=True),
}
# fmt: on
