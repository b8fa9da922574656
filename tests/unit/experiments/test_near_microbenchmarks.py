"""Products on units near memory against closed forms: bandwidths alone decide, until rows do."""

import pytest

from experiments.validation.published.near_memory import decode_speed_up, gemv_speed_up, most_useful_batch
from hwmodels import Platform, operators, time_s
from tests.helpers import shipped

N = 8192
PRESETS = {  # units' bandwidth over the worker's, bits and dtype of a weight
    "hbm_pim": (4920 / 1228, 16, "fp16"),
    "gddr6_aim": (8192 / 1024, 16, "fp16"),
    "lpddr5x_pim": (614 / 76.8, 4, "int4"),
}


@pytest.mark.parametrize("name", PRESETS)
def test_one_vector_gains_the_ratio_of_bandwidths_and_each_row_costs_as_much_again(name):
    ratio, bits, dtype = PRESETS[name]
    assert gemv_speed_up(name, "banks", N, N, 1, bits, dtype) == pytest.approx(ratio, rel=0.01)
    for batch in (2, 4):  # the worker reads weights once, a unit once for each vector
        assert gemv_speed_up(name, "banks", N, N, batch, bits, dtype) == pytest.approx(ratio / batch, rel=0.01)


def test_the_time_of_a_product_is_its_bytes_over_the_units_bandwidth():
    size_bytes = 2 * N * N + 2 * (N + N)  # weights, one vector in, one out
    banks = Platform.from_mapping(shipped("platform", "hbm_pim")).device("banks")
    assert time_s(operators.gemm(1, N, N, 16, "fp16"), banks) == pytest.approx(size_bytes / (0.85 * 4920e9))


def test_a_batch_ends_the_gain_where_rows_times_bytes_exceed_the_ratio():
    assert most_useful_batch("gddr6_aim", "banks", N, N) == 8  # the ratio of bandwidths is eight
    assert most_useful_batch("hbm_pim", "gpu0", N, N) == 0  # nothing is quicker than itself


def test_a_longer_context_leaves_less_to_units_that_do_products_only():
    short, long = (decode_speed_up("lpddr5x_pim", "banks", "llama_3_1_8b", 4, "int4", n) for n in (128, 8192))
    assert 614 / 76.8 > short > long > 1
