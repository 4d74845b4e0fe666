"""What is known about functions and methods by their names, for the classification of effects."""

from __future__ import annotations

import re


def words(*lines: str) -> frozenset[str]:
    """A set of words written as text."""
    return frozenset(" ".join(lines).split())


CHANGING_METHODS = words(
    # containers
    "append appendleft extend extendleft insert remove clear pop popleft popitem setdefault sort reverse discard update",
    "rotate fill resize put itemset setflags __setitem__ __delitem__ __setattr__ __delattr__ __iadd__ __next__ at",
    # files, streams, queues, processes
    "write writelines read readline readlines readinto seek truncate flush close send recv throw next put_nowait",
    "get_nowait acquire release unlink mkdir rmdir rename touch save dump write_text write_bytes",
    # models and optimizers
    "backward step zero_grad train eval requires_grad load_state_dict retain_grad register_hook register_forward_hook",
    "register_full_backward_hook register_buffer register_parameter register_module add_module apply apply_gradients",
    "minimize freeze unfreeze add_param_group reset reset_states reset_parameters to_empty share_memory",
    "fit partial_fit fit_transform fit_predict train_on_batch test_on_batch compile set_weights assign assign_add",
    "assign_sub set_value set_state set_epoch load_weights manual_backward optimize_parameters",
    # random states
    "seed manual_seed manual_seed_all shuffle set_state setstate jumpahead",
)  # fmt: skip
"""Methods that change the object, the model or the data stream that they are called on."""

CHANGING_FUNCTIONS = words(
    "next anext setattr delattr exec eval compile input exit quit breakpoint __import__ heappush heappop heapify"
)

DRAWING_METHODS = words(
    "random rand randn randint randrange integers normal uniform choice choices permutation permuted standard_normal",
    "random_sample bytes gauss betavariate expovariate binomial poisson beta gamma exponential getrandbits triangular",
)
"""Methods of random generators. Those of modules draw from a state that is put back; an object's own is not."""

COLLECTIVES = words(
    "all_reduce all_gather all_gather_object all_gather_into_tensor all_to_all reduce_scatter broadcast barrier",
    "broadcast_object_list gather_object scatter_object_list monitored_barrier allreduce allgather allgatherv alltoall",
    "Allreduce Allgather Bcast bcast Reduce Barrier gather_for_metrics wait_for_everyone reduce_mean_across",
)
"""Functions that wait for the other ranks of a distributed training."""
IN_PLACE_COLLECTIVES = words(
    "all_reduce all_gather all_gather_object all_gather_into_tensor all_to_all reduce_scatter broadcast barrier",
    "broadcast_object_list gather_object scatter_object_list monitored_barrier Allreduce Allgather Bcast Reduce Barrier",
)
COLLECTIVE_MODULES = ("dist", "torch.distributed", "distributed", "comm", "MPI", "hvd", "xm")
RANK_TEST = re.compile(
    r"rank|is_(main|master|local|world|global|chief|rank)|main_process|master_process|global_zero|process_index",
    re.IGNORECASE,
)

CLOCK = re.compile(
    r"""^(
    (_?time|tm?)\.(time|ctime|localtime|gmtime|strftime|clock)
    | (.*\.)?(perf_counter|monotonic|process_time|thread_time|default_timer|elapsed_time)(_ns)?
    | (.*\.)?time_ns | time
    | (.*\.)?(datetime|date|dt|Timestamp)\.(now|utcnow|today)
    | psutil\..* | resource\.getrusage | os\.(getpid|getppid|getloadavg|times|urandom|uname|getlogin)
    | socket\.gethostname | platform\.\w+ | uuid\.uuid\w+ | secrets\.\w+ | getpass\.getuser
    )$""",
    re.VERBOSE,
)
"""Readings of the clock, the machine and the process: no replay can give them again."""

PURE_METHODS = words(
    # numbers, tensors, arrays
    "item mean sum std var min max norm numpy cpu detach tolist float int long double bool half abs sqrt exp log2 log10",
    "pow argmax argmin argsort topk size dim numel shape clone view reshape flatten squeeze unsqueeze transpose permute",
    "t to round clamp clip all any eq ne gt lt ge le dot matmul mm bmm median quantile cumsum cumprod prod nonzero isnan",
    "isfinite isinf unique histc bincount softmax log_softmax sigmoid tanh relu contiguous expand expand_as repeat",
    "type_as astype allclose array_equal diagonal trace det logsumexp nelement element_size data_ptr ravel ptp",
    "searchsorted take nanmean nansum square rsqrt reciprocal floor ceil sign neg add sub mul div narrow index_select",
    "masked_select select chunk split unbind diff count_nonzero fractional amax amin mode kthvalue cosine_similarity",
    "pairwise_distance mse_loss l1_loss is_floating_point is_contiguous as_integer_ratio is_integer hex bit_length",
    "conjugate get_device type",
    # containers and text
    "keys values items get format join strip lstrip rstrip lower upper title capitalize replace startswith endswith count",
    "index copy most_common union intersection difference symmetric_difference issubset issuperset isdisjoint encode",
    "decode hexdigest digest rsplit splitlines partition rpartition zfill ljust rjust center find rfind isdigit isalpha",
    "total_seconds isoformat strftime elements removeprefix removesuffix",
    # models
    "parameters named_parameters buffers named_buffers children named_children modules named_modules state_dict",
    "get_last_lr get_lr get_weights count_params get_config",
)  # fmt: skip

CONVERTING = words("cpu cuda to float double half bfloat16 type")
MODELS = re.compile(
    r"^(model|net|network|module|generator|discriminator|encoder|decoder|policy|critic|actor|backbone|classifier|ema"
    r"|G|D|net[A-Z]\w*|model_\w+|\w+_(model|net|module))$"
)
"""Names of models: the conversions that give a tensor's copy change a model itself."""

STREAMS = re.compile(
    r"(iterator|_iter|_it|_gen|generator|stream|reader|queue)s?$|^(it|gen|itr)$", re.IGNORECASE
)
"""Names of what can be gone through once."""

PURE_FUNCTIONS = words(
    "abs all any bin bool bytes chr complex dict divmod enumerate filter float format frozenset getattr hasattr hash hex",
    "id int isinstance issubclass len list map max min oct ord pow range repr reversed round set slice sorted str sum",
    "tuple type zip vars dir callable ascii memoryview super object",
)
CALLING = words(
    "map filter sorted min max reduce starmap accumulate takewhile dropwhile groupby partial filterfalse"
)
"""Functions that call what they are given."""

PURE_MODULES = frozenset(
    [
        "np",
        "numpy",
        "math",
        "torch",
        "jnp",
        "statistics",
        "F",
        "operator",
        "itertools",
        "functools",
        "tf",
        "K",
        "cmath",
    ]
)
PURE_PARTS = frozenset(
    [
        "torch",
        "linalg",
        "fft",
        "special",
        "functional",
        "nn",
        "cuda",
        "version",
        "char",
        "ma",
        "ndarray",
        "Tensor",
        "numpy",
        "math",
        "backends",
        "compat",
        "v1",
        "keras",
        "backend",
        "metrics",
    ]
)
"""Parts of those modules whose functions only compute."""
HARMLESS = words(
    "memory_allocated max_memory_allocated memory_reserved max_memory_reserved device_count is_available"
)
IMPURE_FUNCTIONS = words(
    "rand randn randint randperm bernoulli multinomial poisson normal rand_like randn_like randint_like dropout",
    "alpha_dropout feature_dropout empty empty_like load fromfile memmap loadtxt genfromtxt batch_norm instance_norm",
    "random_uniform random_normal gumbel_softmax rrelu compile nditer vectorize apply_along_axis",
)
CHANGING_MODULE_FUNCTIONS = words(
    "seed manual_seed manual_seed_all save savez savez_compressed savetxt backward grad copyto put place putmask",
    "fill_diagonal seterr seterrcall clear_session empty_cache reset_peak_memory_stats use_deterministic_algorithms",
    "set_value update assign shuffle put_along_axis synchronize",
)

CHANGING_MODULES = ("subprocess", "shutil", "signal", "atexit", "gc", "ctypes")
SYSTEM_MODULES = ("os", "sys")
SYSTEM_READS = re.compile(
    r"^os\.(path\..*|getenv|getcwd|listdir|stat|cpu_count|scandir|walk|environ\..*|fspath|access|get_terminal_size)$"
    r"|^sys\.(getsizeof|getrefcount|getrecursionlimit|stdout\.isatty|intern|version_info.*)$"
)
LOGGERS = re.compile(r"^(wandb|mlflow|logger|logging|log|writer|run|trainer|self|neptune|comet|experiment)$")
