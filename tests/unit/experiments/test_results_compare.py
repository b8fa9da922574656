"""Comparison: pairs differ in one factor, intervals come from the same resampled requests, noise is called noise."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments import results
from experiments.explain import ConfigError


def table(**columns: Any) -> pd.DataFrame:
    """Points with the columns given; `_` in a name of a policy or workload key stands for a dot."""
    frame = pd.DataFrame(columns)
    frame.columns = [name.replace("__", ".") for name in frame.columns]
    frame.insert(0, "point", range(len(frame)))
    return frame


def served(tpots_s: Sequence[Sequence[float]], tokens: Sequence[int], **more: Any) -> pd.DataFrame:
    """Requests of points 0, 1, …, each with these times per token."""
    frames = []
    for point, times in enumerate(tpots_s):
        frame = pd.DataFrame(
            {"point": point, "request": range(len(times)), "batch": range(len(times)), "warmup": False}
        )
        frame["decode_tokens"], frame["tpot_s"] = tokens, times
        frame["latency_s"] = frame["decode_tokens"] * frame["tpot_s"]
        frame["ttft_s"] = np.nan
        frames.append(frame.assign(**more))
    return pd.concat(frames, ignore_index=True)


LRU_LFU = table(policy__cache=["lru", "lfu"])


# ---- pairs


def test_pairs_agree_in_all_but_the_factor() -> None:
    points = table(
        policy__cache=["lru", "lfu", "lru", "lfu"],
        cache_gib=[2.0, 2.0, 4.0, 4.0],
        workload__max_decode_tokens=[None] * 4,
        name=["a", "b", "c", "d"],
        tpot_mean_s=[0.04, 0.05, 0.02, 0.03],
    )
    pairs = results.paired(points, "policy.cache", "lru", "tpot_mean_s")
    assert list(pairs.columns[:4]) == ["point", "baseline_point", "policy.cache", "cache_gib"]
    assert list(pairs["baseline_point"]) == [0, 2]
    assert list(pairs["ratio"]) == pytest.approx([0.05 / 0.04, 0.03 / 0.02])
    assert list(pairs["difference"]) == pytest.approx([0.01, 0.01])


def test_points_without_a_partner_are_named() -> None:
    points = table(policy__cache=["lru", "lfu", "lfu"], seed=[0, 0, 7], tpot_mean_s=[1.0, 2.0, 3.0])
    with pytest.warns(results.LeftOutWarning, match=r"1 of 3 points .* left out: 2\."):
        pairs = results.paired(points, "policy.cache", "lru", "tpot_mean_s")
    assert list(pairs["point"]) == [1]
    assert pairs.attrs["unpaired"] == [2]


def test_a_selection_of_points_pairs_as_well() -> None:
    points = table(policy__cache=["fifo", "lru", "lfu"], tpot_mean_s=[9.0, 1.0, 2.0])
    pairs = results.paired(points[points["policy.cache"] != "fifo"], "policy.cache", "lru", "tpot_mean_s")
    assert (list(pairs["point"]), list(pairs["ratio"])) == ([2], [2.0])


def test_the_parameters_of_a_choice_and_the_policies_of_a_system_go_with_it() -> None:
    points = table(
        system=["on_demand", "prefetch", "prefetch"],
        policy__prediction=["none", "transition", "transition"],
        policy__prediction__width=[np.nan, 2.0, 4.0],
        tokens_per_s=[10.0, 12.0, 15.0],
    )
    for factor, baseline in (("policy.prediction", "none"), ("system", "on_demand")):
        pairs = results.paired(points, factor, baseline, "tokens_per_s")
        assert list(pairs["ratio"]) == [1.2, 1.5]
        assert list(pairs["policy.prediction.width"]) == [2, 4]


def test_a_value_can_be_the_factor_and_missing_can_be_the_baseline() -> None:
    points = table(cache_gib=[np.nan, 2.0, 4.0], hit_rate=[0.8, 0.4, 0.6])
    assert list(results.paired(points, "cache_gib", 4, "hit_rate")["ratio"]) == pytest.approx([0.8 / 0.6, 0.4 / 0.6])
    assert list(results.paired(points, "cache_gib", None, "hit_rate")["ratio"]) == pytest.approx([0.5, 0.75])


@pytest.mark.parametrize(
    ("points", "factor", "baseline", "sentence"),
    [
        (table(trace=["a", "b"]), "trace", "a", "changes what is asked"),
        (table(workload__requests=[1, 2]), "workload.requests", 1, "changes what is asked"),
        (table(policy__cache=["lru", "lfu"], trace_digest=["x", "y"]), "policy.cache", "lru", "different traces"),
        (table(policy__cache=["lru", "lfu"]), "policy.cash", "lru", "did you mean 'policy.cache'"),
        (table(policy__cache=["lru", "lfu"]), "policy.cache", "lruu", "did you mean 'lru'"),
        (table(policy__cache=["lru", "lru"]), "policy.cache", "lru", "nothing to compare with"),
        (table(policy__cache=["lru", "lfu"]), "tpot_mean_s", 1.0, "expected a key of the configuration"),
        (table(policy__cache=["lru", "lfu"], seed=[0, 1]), "policy.cache", "lru", r"no point pairs .*differ in seed"),
        (
            table(policy__cache=["lru", "lru", "lfu"], system=["a", "b", "a"]),
            "policy.cache",
            "lru",
            r"points 0, 1 all have it .*differ in system",
        ),
        (
            table(policy__cache=["lru", "lfu"], workload__requests=[4, 8]),
            "policy.cache",
            "lru",
            r"no point pairs .*differ in workload\.requests",
        ),
    ],
)
def test_what_cannot_be_paired_is_refused(points: pd.DataFrame, factor: str, baseline: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        results.paired(points.assign(tpot_mean_s=1.0), factor, baseline, "tpot_mean_s")


def test_a_metric_must_be_a_column_of_numbers() -> None:
    with pytest.raises(ConfigError, match="did you mean 'hit_rate'"):
        results.paired(LRU_LFU.assign(hit_rate=0.5), "policy.cache", "lru", "hitrate")
    with pytest.raises(ConfigError, match="column of numbers"):
        results.paired(LRU_LFU.assign(name="x"), "policy.cache", "lru", "name")


# ---- values and intervals


def test_times_per_token_are_weighted_by_tokens() -> None:
    requests = served([[1.0, 2, 3, 4, 5], [2.0, 4, 6, 8, 10]], [50, 40, 30, 20, 10])
    compared = results.compare((LRU_LFU, requests), "policy.cache", "lru", "tpot_s")
    # (1·50 + 2·40 + 3·30 + 4·20 + 5·10) / 150 = 350 / 150
    assert list(compared["value"]) == pytest.approx([350 / 150, 700 / 150])
    rate = results.compare((LRU_LFU, requests), "policy.cache", "lru", "tokens_per_s")
    assert list(rate["value"]) == pytest.approx([150 / 350, 150 / 700])
    latency = results.compare((LRU_LFU, requests), "policy.cache", "lru", "latency_s")
    assert list(latency["value"]) == pytest.approx([350 / 5, 700 / 5])


def test_hit_rates_are_weighted_by_accesses() -> None:
    requests = served([[1.0] * 5, [1.0] * 5], [1] * 5)
    requests["hits"] = [1, 2, 3, 4, 5, 2, 4, 6, 8, 10]
    requests["accesses"] = [10, 10, 10, 10, 20, 10, 10, 10, 10, 20]
    compared = results.compare((LRU_LFU, requests), "policy.cache", "lru", "hit_rate")
    assert list(compared["value"]) == pytest.approx([15 / 60, 30 / 60])
    assert compared["ratio_low"].iloc[1] == pytest.approx(2)


def test_both_sides_are_drawn_from_the_same_requests_so_that_what_they_share_cancels() -> None:
    times = np.array([1.0, 9, 2, 8, 3, 7, 4, 6])
    requests = served([times, 1.1 * times], [10] * 8)
    compared = results.compare((LRU_LFU, requests), "policy.cache", "lru", "tpot_s")
    lru, lfu = compared.iloc[0], compared.iloc[1]
    assert lru["high"] > lfu["low"]  # each alone is uncertain, and
    assert (lfu["ratio_low"], lfu["ratio_high"]) == pytest.approx((1.1, 1.1))  # the ratio is not
    assert lfu["significant"]
    assert (lru["ratio"], lru["ratio_low"], lru["difference_high"], lru["significant"]) == (1, 1, 0, False)


def test_the_interval_of_a_mean_is_that_of_students_t() -> None:
    times = np.array([4.1, 5.3, 3.8, 6.0, 4.9, 5.5, 4.4, 5.1, 4.7, 5.2])
    requests = served([times, times + 1], [10] * 10)
    lru = results.compare((LRU_LFU, requests), "policy.cache", "lru", "tpot_s").iloc[0]
    half = stats.t.ppf(0.975, df=9) * times.std(ddof=1) / np.sqrt(10)
    assert lru["value"] == pytest.approx(times.mean())
    assert lru["high"] - lru["low"] == pytest.approx(2 * half, rel=0.05)


def test_the_interval_of_a_ratio_is_that_of_scipys_paired_bootstrap() -> None:
    random = np.random.default_rng(5)
    tokens = random.integers(50, 500, 150)
    one = random.lognormal(0, 0.3, 150)
    other = one * random.lognormal(0.2, 0.2, 150)
    compared = results.compare((LRU_LFU, served([one, other], tokens)), "policy.cache", "lru").iloc[1]
    theirs = stats.bootstrap(
        (one * tokens, other * tokens),
        lambda a, b, axis: b.sum(axis=axis) / a.sum(axis=axis),
        paired=True,
        method="percentile",
        rng=np.random.default_rng(6),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert compared["ratio_low"] == pytest.approx(theirs.low, abs=0.05 * width)
    assert compared["ratio_high"] == pytest.approx(theirs.high, abs=0.05 * width)


def test_a_wider_level_gives_a_wider_interval_and_the_same_seed_the_same_one() -> None:
    times = np.random.default_rng(1).random(30)
    requests = served([times, times + 1], [10] * 30)
    compared = [
        results.compare((LRU_LFU, requests), "policy.cache", "lru", level=level, seed=seed).iloc[1]
        for level, seed in ((0.95, 0), (0.95, 0), (0.95, 1), (0.5, 0))
    ]
    widths = [row["high"] - row["low"] for row in compared]
    assert widths[0] == widths[1]
    assert compared[0]["low"] != compared[2]["low"]
    assert widths[3] < widths[0]


# ---- what is said


def test_a_difference_within_the_noise_is_said_once_with_its_interval() -> None:
    points = table(policy__cache=["lru", "lfu", "fifo"])
    up_and_down = [1.2, 1.8, 3.3, 3.7, 5.1, 5.9]  # differences 0.2, -0.2, 0.3, -0.3, 0.1, -0.1
    requests = served([[1.0, 2, 3, 4, 5, 6], up_and_down, up_and_down], [10] * 6)
    with pytest.warns(results.NoiseWarning) as caught:
        compared = results.compare((points, requests), "policy.cache", "lru")
    assert [str(warning.message).split(" (95")[0] for warning in caught] == [
        "the difference of tpot_s between lfu (point 1) and lru (point 0) lies inside the trace's own sampling noise"
    ]
    assert "95 % interval -0." in str(caught[0].message)
    assert "over 6 requests); likewise 1 more" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert not compared["significant"].any()


def test_a_clear_difference_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        requests = served([[1.0, 2, 3, 4, 5], [2.0, 3, 4, 5, 6]], [10] * 5)
        assert results.compare((LRU_LFU, requests), "policy.cache", "lru")["significant"].tolist() == [False, True]


def test_four_requests_have_no_interval() -> None:
    requests = served([[1.0, 2, 3, 4], [2.0, 3, 4, 5]], [10] * 4)
    with pytest.warns(results.NoiseWarning, match="over 4 requests is not meaningful; at least 5 are needed"):
        compared = results.compare((LRU_LFU, requests), "policy.cache", "lru")
    assert compared["low"].isna().all()
    assert compared["significant"].isna().all()
    assert compared["ratio"].iloc[1] == pytest.approx(14 / 10)


def test_requests_of_one_batch_are_drawn_together() -> None:
    requests = served([[1.0, 2, 3, 4, 5, 6, 7, 8], [2.0, 3, 4, 5, 6, 7, 8, 9]], [10] * 8)
    requests["batch"] = requests["request"] // 4
    with pytest.warns(results.NoiseWarning, match="over 8 requests in 2 batches is not meaningful"):
        results.compare((LRU_LFU, requests), "policy.cache", "lru")
    requests["hits"], requests["accesses"] = 1, 2
    for metric in ("tokens_per_s", "hit_rate"):
        with pytest.raises(ConfigError, match="not known of single requests where they share batches"):
            results.compare((LRU_LFU, requests), "policy.cache", "lru", metric)


def test_warm_up_requests_are_left_out() -> None:
    requests = served([[100.0, 2, 3, 4, 5, 6], [100.0, 4, 6, 8, 10, 12]], [10] * 6)
    requests["warmup"] = requests["request"] == 0
    compared = results.compare((LRU_LFU, requests), "policy.cache", "lru")
    assert list(compared["value"]) == [4, 8]
    assert list(compared["requests"]) == [5, 5]


def test_the_summary_name_of_a_metric_means_the_same() -> None:
    requests = served([[1.0, 2, 3, 4, 5, 6], [2.0, 3, 4, 5, 6, 8]], [10, 20, 30, 40, 50, 60]).assign(ttft_s=2.0)
    for name, metric in (("tpot_mean_s", "tpot_s"), ("ttft_mean_s", "ttft_s"), ("request_latency_mean_s", "latency_s")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", results.NoiseWarning)
            by_name, compared = (results.compare((LRU_LFU, requests), "policy.cache", "lru", m) for m in (name, metric))
        pd.testing.assert_frame_equal(by_name, compared)


def test_a_metric_that_no_request_has_is_refused() -> None:
    requests = served([[1.0] * 5, [1.0] * 5], [10] * 5)
    for metric, sentence in (("ttft_s", "no request of point 0 has it"), ("tpot", "did you mean 'tpot_s'")):
        with pytest.raises(ConfigError, match=sentence):
            results.compare((LRU_LFU, requests), "policy.cache", "lru", metric)


def test_a_point_without_a_partner_needs_no_requests() -> None:
    points = table(policy__cache=["lru", "lfu", "lfu"], seed=[0, 0, 7])
    requests = served([[1.0, 2, 3, 4, 5], [2.0, 3, 4, 5, 6]], [10] * 5)
    with pytest.warns(results.LeftOutWarning, match=r"left out: 2\."):
        assert list(results.compare((points, requests), "policy.cache", "lru")["point"]) == [0, 1]


def test_points_that_served_other_requests_are_refused() -> None:
    requests = served([[1.0] * 5, [1.0] * 5], [10] * 5)
    requests.loc[9, "request"] = 77
    with pytest.raises(ConfigError, match="points 0 and 1 did not serve the same requests"):
        results.compare((LRU_LFU, requests), "policy.cache", "lru")
