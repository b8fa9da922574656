"""A workload as a specification of composable pieces: a pure function of (specification, trace, seed).

A mapping with the keys

    requests       how many (null: as many as the trace has)
    arrivals       a piece of traces/workloads/arrivals.py, such as {kind: poisson, rate_per_s: 2} (default: at_once)
    prompt_tokens  a piece of traces/workloads/lengths.py, or a number (default: trace)
    decode_tokens  the same
    tasks          weights of the trace's task labels, such as {anatomy: 2, astronomy: 1}: each request's task is drawn
    tenants        shares by name: each request's tenant is drawn
    slo_ttft_s, slo_tpot_s  seconds that every request may take to its first token and on average for each one after
                   it, or seconds by task, such as {anatomy: 1, astronomy: 5} (null, a task left out: as the run says)
    prefixes       shares by name, such as {chat: 3, code: 1}: the sequence with which each request begins is drawn
    prefix_tokens  its length in tokens, one for all or by name; of a shorter request, all of its prompt
    window         {in_flight, steps}: of these requests those of a window (traces/workloads/window.py)

A piece is {kind: name, parameters…}, or the name alone. Every piece draws from a generator of its own, so changing one
leaves the others as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_type_hints

import numpy as np

from traces.schema import RequestInfo
from traces.workloads import arrivals, lengths
from traces.workloads.requests import (
    SLOS,
    RequestList,
    WorkloadError,
    check_requests,
    decode_tokens_of,
    followed,
    prompt_tokens_of,
)
from traces.workloads.window import window

PREFIXES = ("prefixes", "prefix_tokens")
KEYS = ("requests", "arrivals", "prompt_tokens", "decode_tokens", "tasks", "tenants", *SLOS, *PREFIXES, "window")
ARRIVALS = (arrivals.at_once, arrivals.poisson, arrivals.gamma, arrivals.recorded, arrivals.closed_loop)
LENGTHS = (
    lengths.trace,
    lengths.fixed,
    lengths.uniform,
    lengths.normal,
    lengths.lognormal,
    lengths.recorded,
    lengths.file,
)
MOST = 10_000_000  # requests
_WORDS = {int: "a whole number", float: "a number", str: "text"}


def make_requests(
    spec: Mapping[str, Any], trace: Sequence[RequestInfo], seed: int = 0, where: str = "workload"
) -> RequestList:
    """The request list that `spec` describes over the requests of a trace; `where` names it in messages.

    Raises WorkloadError, one sentence, for whatever is wrong with it.

    >>> from traces import data_path, open_trace
    >>> trace = open_trace(data_path("gpt_oss_20b.parquet")).requests
    >>> spec = {"requests": 3, "arrivals": {"kind": "poisson", "rate_per_s": 2.0}, "decode_tokens": 64}
    >>> made = make_requests(spec, trace, seed=1)
    >>> made.arrival_s.round(2), made.decode_tokens, made.trace_request
    (array([0.85, 1.75, 2.26]), array([64, 64, 64]), array([ 4,  9, 15]))
    """
    unknown = [key for key in spec if key not in KEYS]
    if unknown:
        raise WorkloadError(f"{where}: unknown key '{unknown[0]}'{_near(str(unknown[0]), KEYS)}")
    count = len(trace) if spec.get("requests") is None else spec["requests"]
    if type(count) is not int or not 1 <= count <= MOST:
        raise WorkloadError(f"{where}: 'requests' must be a whole number from 1 to {MOST:,} or null, not {count!r}.")

    def rng(key: str) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(KEYS.index(key),)))

    def drawn(key: str) -> tuple[str | None, ...]:
        return _drawn(spec.get(key), f"{where}: '{key}'", count, rng(key))

    tasks = drawn("tasks")
    chosen = followed(trace, tasks, count, where)
    made: dict[str, Any] = {}
    for key, own in (("prompt_tokens", prompt_tokens_of), ("decode_tokens", decode_tokens_of)):
        given = spec.get(key)
        node = {"kind": "fixed", "tokens": given} if type(given) is int else "trace" if given is None else given
        lengths_of_trace = np.array([own(info) for info in chosen], dtype=np.int64)
        made[key] = _piece(node, LENGTHS, f"{where}: '{key}'", key, lengths_of_trace, rng(key))
    if spec.get("window") is not None:
        parts = window(spec["window"], made["prompt_tokens"], made["decode_tokens"], f"{where}: 'window'")
        made = dict(zip(made, parts, strict=True))
        count = len(parts[0])
        chosen = chosen[:count]
    arrivals_node = "at_once" if spec.get("arrivals") is None else spec["arrivals"]
    arrival_s, client, think_s = _piece(arrivals_node, ARRIVALS, f"{where}: 'arrivals'", count, rng("arrivals"))
    prefix = drawn("prefixes")
    lengths_of_prefix = _prefix_tokens(spec.get("prefix_tokens"), f"{where}: 'prefix_tokens'", prefix)
    requests = RequestList(
        arrival_s=arrival_s,
        **made,
        trace_request=np.array([info.id for info in chosen], dtype=np.int64),
        task=tuple(info.task for info in chosen),
        tenant=drawn("tenants"),
        client=client,
        think_s=think_s,
        prefix=prefix,
        prefix_tokens=np.minimum(lengths_of_prefix, made["prompt_tokens"]),
        **{name: _slo(spec.get(name), f"{where}: '{name}'", chosen) for name in SLOS},
    )
    check_requests(requests, trace, where)
    return requests


def _piece(node: Any, functions: Sequence[Callable[..., Any]], where: str, *given: Any) -> Any:
    """Call the function that `node` names with `given` and the parameters in `node`, after checking these."""
    kinds = {function.__name__: function for function in functions}
    parameters = dict(node) if isinstance(node, Mapping) else {"kind": node}
    kind = parameters.pop("kind", None)
    if not isinstance(kind, str) or kind not in kinds:
        if kind is None:
            raise WorkloadError(f"{where} needs a 'kind', one of {', '.join(kinds)}.")
        end = _near(str(kind), kinds) if get_close_matches(str(kind), kinds) else "."
        raise WorkloadError(f"{where} must be one of {', '.join(kinds)}, not {kind!r}{end}")
    function = kinds[kind]
    hints = get_type_hints(function)
    known = {
        name: (hints[name], parameter.default is parameter.empty)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    for name, value in parameters.items():
        if name not in known:
            raise WorkloadError(f"{where} of kind {kind} has no parameter '{name}'{_near(str(name), known)}")
        hint = known[name][0]
        if type(value) is not hint and not (hint is float and type(value) is int):
            raise WorkloadError(f"{where}: parameter '{name}' must be {_WORDS[hint]}, not {value!r}.")
        if hint is not str and abs(value) >= 2**63:
            raise WorkloadError(f"{where}: parameter '{name}' must be below 2^63, not {value}.")
    for name, (hint, required) in known.items():
        if required and name not in parameters:
            raise WorkloadError(f"{where} of kind {kind} needs the parameter '{name}', {_WORDS[hint]}.")
    try:
        return function(*given, **parameters)
    except WorkloadError as error:
        raise WorkloadError(f"{where}: {error}") from None


def _slo(node: Any, where: str, chosen: Sequence[RequestInfo]) -> np.ndarray:
    """What each request may take, in seconds, float64 [N], NaN where nobody says; `node`: for all, or by task."""
    by_task = node if isinstance(node, Mapping) else {info.task: node for info in chosen}
    labels = {info.task for info in chosen}
    for task, value in by_task.items():
        if value is not None and (type(value) not in (int, float) or not value > 0):
            raise WorkloadError(f"{where} must be above 0 seconds, or a mapping of tasks to such, not {value!r}.")
        if task not in labels:
            near = _near(str(task), sorted(map(str, labels)))
            raise WorkloadError(f"{where}: no request has the task '{task}'{near}")
    return np.array([np.nan if by_task.get(i.task) is None else by_task[i.task] for i in chosen], dtype=np.float64)


def _prefix_tokens(node: Any, where: str, names: Sequence[str | None]) -> np.ndarray:
    """Tokens of each request's prefix, int64 [N], 0 where it has none; `node`: one number for all, or by name."""
    by_name = node if isinstance(node, Mapping) else dict.fromkeys(names, node)
    found = [0 if name is None else by_name.get(name) for name in names]
    for name, tokens in zip(names, found, strict=True):
        if name is not None and (type(tokens) is not int or tokens < 1):
            raise WorkloadError(f"{where} must be a whole number from 1 for the prefix '{name}', not {tokens!r}.")
    if node is not None and not any(name is not None for name in names):
        raise WorkloadError(f"{where} is given without 'prefixes', shares by name.")
    return np.array(found, dtype=np.int64)


def _drawn(weights: Any, where: str, count: int, rng: np.random.Generator) -> tuple[str | None, ...]:
    """A name for each of `count` requests, drawn by weight; None where there are no weights."""
    if weights is None:
        return (None,) * count
    numbers = list(weights.values()) if isinstance(weights, Mapping) else []
    right = all(type(number) in (int, float) and 0 <= number <= 1e100 for number in numbers)
    if not (right and sum(numbers) > 0):
        raise WorkloadError(
            f"{where} must be a mapping of names to weights, from 0 to 1e+100 and not all 0, not {weights!r}."
        )
    for name in weights:
        if type(name) not in (str, int):
            raise WorkloadError(f"{where}: the name {name!r} must be a text; quote it if it reads as something else.")
    names = [str(name) for name in weights]
    places = rng.choice(len(names), size=count, p=np.array(numbers, dtype=np.float64) / sum(numbers))
    return tuple(names[place] for place in places)


def _near(name: str, known: Any) -> str:
    """ "; did you mean 'x'?", or the names there are."""
    close = get_close_matches(name, list(known), n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f" (there are: {', '.join(known)})." if known else "."
