"""`moesim trace workload`: what a request list, or the specification of one, asks for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traces import RequestInfo
    from traces.workloads import RequestList


def workload(options: argparse.Namespace) -> int:
    """Print rates, lengths and mixes of a request list, and write it if asked to."""
    from experiments.commands.replay import named_trace
    from experiments.explain import ConfigError
    from traces.workloads import open_requests, summarise_requests, write_requests

    if options.seed < 0:
        raise ConfigError(f"--seed is {options.seed}; expected at least 0.")
    if options.out and not Path(options.out).parent.is_dir():
        raise ConfigError(f"--out {options.out}: there is no folder {Path(options.out).parent}.")
    trace = named_trace(options.trace)
    requests = open_requests(options.file, trace.requests, options.seed)
    if options.out:
        write_requests(requests, options.out)
    summary = summarise_requests(requests, trace.requests)
    if options.json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
        return 0
    for line in lines(summary):
        print(line)
    if options.out:
        longer = " workload.binding=resample" if needs_binding(requests, trace.requests) else ""
        print(f"wrote {options.out}; use it with: moesim run trace={options.trace} workload.file={options.out}{longer}")
    return 0


def needs_binding(requests: RequestList, trace: Sequence[RequestInfo]) -> bool:
    """Whether a request asks for more decode tokens, or another prompt, than were recorded of the one it follows."""
    from traces.workloads.requests import decode_tokens_of, prompt_tokens_of

    own = {info.id: (prompt_tokens_of(info), decode_tokens_of(info)) for info in trace}
    asked = zip(requests.trace_request, requests.prompt_tokens, requests.decode_tokens, strict=True)
    return any(prompt != own[int(name)][0] or decode > own[int(name)][1] for name, prompt, decode in asked)


def lines(summary: dict[str, Any]) -> list[str]:
    """The summary as text."""
    arrivals, clients = summary["arrivals"], summary["clients"]
    told = [f"{summary['requests']} requests, following {summary['trace_requests']} of the trace"]
    if clients:
        told.append(f"closed loop of {clients} clients: arrivals are known at run time")
    if clients and not arrivals["requests"]:
        pass
    elif arrivals["rate_per_s"] is None:
        told.append("all arrive at once")
    else:
        told.append(
            f"{arrivals['rate_per_s']:.4g} requests/s over {arrivals['span_s']:.4g} s,"
            f" coefficient of variation of the gaps {arrivals['gap_cv']:.3g}"
        )
    columns = [(name, summary[name]) for name in ("gap_s", "prompt_tokens", "decode_tokens") if summary[name]]
    heads = list(columns[0][1])
    told.append(f"{'':<15}" + "".join(f"{head:>9}" for head in heads))
    for name, values in columns:
        told.append(f"{name:<15}" + "".join(f"{_short(values[head]):>9}" for head in heads))
    for name in ("tasks", "tenants"):
        counts = sorted(summary[name].items(), key=lambda item: -item[1])
        if counts:
            more = ", …" if len(counts) > 6 else ""
            told.append(f"{name}: {', '.join(f'{label} {count}' for label, count in counts[:6])}{more}")
    told.append(
        f"decode tokens: {summary['decode_tokens_total']:,}, of which {summary['decode_tokens_not_recorded']:,}"
        f" ({100 * summary['decode_share_not_recorded']:.3g} %) are beyond what the trace recorded"
    )
    return told


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
