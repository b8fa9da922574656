"""What a run's figures are called and how they are written, with units a reader expects."""

from __future__ import annotations

from typing import Any

from simulator.energy import PARTS
from simulator.pools.spec import NAMES as POOLS

# what the critical path waited for, in words
CAUSES = {
    "hbm": "GPU memory (HBM)",
    "compute": "computing",
    "overhead": "launches",
    "pcie": "PCIe",
    "cxl": "CXL",
    "cpu": "CPU experts",
    "ndp": "experts near memory",
    "ssd": "SSD",
    "dram": "host memory",
    "all_to_all": "all-to-all",
    "all_reduce": "all-reduce",
    "pipeline": "next stage",
    "nvlink": "NVLink",
    "management": "cache management",
}

LOST = (("dropped", "dropped"), ("substituted", "substituted"), ("low_precision", "at low precision"))


def seconds(value: float) -> str:
    """A duration with a fitting unit and three digits: 1.23 s, 19.5 ms, 4.00 us."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 1 or unit == "us":
            break
    number = value * factor
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f} {unit}"


def size(value: float) -> str:
    """Bytes in GiB or MiB."""
    return f"{value / 2**30:.2f} GiB" if value >= 2**29 else f"{value / 2**20:.1f} MiB"


def percent(value: float | None) -> str:
    """A share in per cent, a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f} %"


def time_shares(attribution: dict[str, float]) -> str:
    """Where the time went, the largest share first."""
    shares = sorted(attribution.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{CAUSES.get(name, name)} {100 * share:.1f} %" for name, share in shares if share >= 0.0005)


def summary_rows(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, how much) of a run."""
    s = entry["summary"]
    tpot = s["tpot_mean_s"]
    rows = [("requests", f"{s['requests']} ({s['prefill_tokens']} prompt and {s['decode_tokens']} decoded tokens)")]
    if tpot is not None:
        rows += [
            ("tokens/s", f"{s['tokens_per_s']:.2f}"),
            ("TPOT", f"{seconds(tpot)} mean, {seconds(s['tpot_p50_s'])} median, {seconds(s['tpot_p99_s'])} p99"),
        ]
    rows += _served(s)
    if s.get("tpot_mean_s_p5") is not None:
        low, high = seconds(s["tpot_mean_s_p5"]), seconds(s["tpot_mean_s_p95"])
        rows.append(("calibration", f"TPOT {low} to {high} on 90 % of machines with drawn constants"))
    rows.append(("TTFT", "not in trace" if s["ttft_mean_s"] is None else f"{seconds(s['ttft_mean_s'])} mean"))
    rate = percent(s["hit_rate"])
    extra = [
        f"{percent(s[key])} {what}" for key, what in (("late_rate", "late"), ("on_cpu_rate", "in place")) if s[key]
    ]
    rows.append(("hit rate", ", ".join([rate, *extra])))
    changed = [(s.get(f"{name}_weight_share"), what) for name, what in LOST]
    if any(share is not None for share, _ in changed):
        rows.append(("gate weight", ", ".join(f"{share:.1%} {what}" for share, what in changed if share is not None)))
    rows.append(("time went to", time_shares(s["attribution"])))
    loaded = f"{size(s['load_bytes'])} on demand"
    if s["prefetch_bytes"]:
        loaded += f", {size(s['prefetch_bytes'])} prefetched ({percent(s['prefetch_useful_rate'])} of fetches useful)"
    rows.append(("loaded", loaded))
    rows += _distances(s, tpot)
    peak = size(s["memory_peak_bytes"])
    rows.append(("memory", f"expert budget {size(s['cache_bytes'])}; {peak} of all in use at the peak"))
    rows += _energy(s)
    if "layout" in s:
        rows.insert(1, ("layout", f"{s['layout']}; {s['gpus']} GPUs"))
    rows += [("remark", remark) for remark in entry["remarks"]]
    return rows


def _energy(s: dict[str, Any]) -> list[tuple[str, str]]:
    energy_j = s["energy_per_token_j"]
    if not energy_j:
        return [("energy", "unknown (the platform states neither power nor what bits and operations cost)")]
    if s["energy_bottom_up_j"] is None:
        why = "idle and full power; what bits or operations cost is not known of every part"
        return [("energy", f"{energy_j:.3g} J per token, by {why}"), *_carbon(s)]
    parts = {name: s[f"energy_{name}_per_token_j"] for name in PARTS}
    largest = sorted(parts.items(), key=lambda item: (-item[1], item[0]))
    shares = ", ".join(f"{name} {percent(part / energy_j)}" for name, part in largest if part >= 0.0005 * energy_j)
    by_power = energy_j * s["energy_by_power_j"] / s["energy_j"]
    beside = f" (by power {by_power:.3g} J)" if by_power else ""
    return [("energy", f"{energy_j:.3g} J per token bottom up{beside}: {shares}"), *_carbon(s)]


def _carbon(s: dict[str, Any]) -> list[tuple[str, str]]:
    return [] if s["carbon_g"] is None else [("carbon", f"{s['carbon_g']:.3g} g of CO2 equivalent")]


def _served(s: dict[str, Any]) -> list[tuple[str, str]]:
    """Of requests that came and went."""
    if s.get("makespan_s") is None:
        return []
    rows = [("served", f"{s['requests_per_s']:.4g} requests/s over {seconds(s['makespan_s'])}")]
    rows.append(("waited", f"{seconds(s['queued_mean_s'])} mean, {seconds(s['queued_p99_s'])} p99"))
    if s["ttft_p50_s"] is not None:
        rows.append(("TTFT from arrival", f"{seconds(s['ttft_p50_s'])} median, {seconds(s['ttft_p99_s'])} p99"))
    if s["slo_attainment"] is not None:
        rate = f"{s['goodput_requests_per_s']:.4g} requests/s"
        rows.append(("goodput", f"{rate}; {percent(s['slo_attainment'])} of requests met their SLO"))
    rows.append(("KV cache", f"{size(s['kv_peak_bytes'])} at the peak, {s['preemptions']} preemptions"))
    rates = [f"{name} {percent(s[key])}" for name in POOLS if s.get(key := f"{name}_utilisation") is not None]
    if rates:
        rows.append(("time in steps", ", ".join(rates)))
    if s.get("kv_transfer_mean_s") is not None:
        times = f"{seconds(s['kv_transfer_mean_s'])} mean, {seconds(s['kv_transfer_p99_s'])} p99"
        rows.append(("KV transfer", f"{times}, {size(s['kv_transfer_bytes'])} in all"))
    if s.get("instances"):
        held = f"{size(s['distinct_expert_bytes'])} of distinct experts, {size(s['dense_bytes'])} of other weights"
        rows.append(("instances", f"{s['instances']}: {held}"))
    if s.get("tokens_per_expert"):
        rows.append(("expert batch", f"{s['tokens_per_expert']:.3g} tokens per expert of a decode step"))
    return rows


def _distances(s: dict[str, Any], tpot: float | None) -> list[tuple[str, str]]:
    rows = []
    for key, name in (("reference", "clairvoyant"), ("physics", "physics bound")):
        bound = s[f"{key}_tpot_s"]
        if bound is not None and tpot is not None and bound > 0:
            rows.append((name, f"TPOT {seconds(bound)}; this run takes {tpot / bound:.2f} times as long"))
        elif s[f"{key}_duration_s"] is not None and tpot is None and s[f"{key}_duration_s"] > 0:
            rows.append((name, f"{seconds(s[f'{key}_duration_s'])} for all"))
        else:
            rows.append((name, "not defined here"))
    return rows
