"""Fits with their uncertainty and their judgement: on a model whose right answer is known, and as files."""

from __future__ import annotations

import numpy as np
import pytest

from hwmodels.calibrate import calibrate, judged, named, read, write
from hwmodels.datasheet import datasheet
from hwmodels.errors import PlatformError
from hwmodels.fit import DRAWS, FOLDS, Sample, draws, errors, fit, fit_group, folds, held_out, model_error
from hwmodels.kernels import Kernel, Parameter, kernels
from hwmodels.predict import FITTED
from hwmodels.rival import UNITS, Rival

QUICK = "deepep_low_latency_dispatch"


class Line(Kernel):
    """start + bytes / bandwidth."""

    name, table = "line", "deepep_low_latency"
    columns, shape, targets = ("size_bytes", "num_token"), ("size_bytes",), {"latency": 1e-3}
    parameters = {  # noqa: RUF012
        "start_s": Parameter(1e-6, 1e-9, 1e-3, 0.5, "start"),
        "share": Parameter(0.5, 0.01, 1.0, 0.1, "share of the bandwidth"),
    }

    def group(self, rows):
        return np.full(len(rows["size_bytes"]), "only", dtype=object)

    def seconds(self, rows, sheet, values):
        return values["start_s"] + rows["size_bytes"] / (sheet.memory_read_bytes_per_s * values["share"])

    def demand(self, rows, sheet):
        return np.zeros(len(rows["size_bytes"])), rows["size_bytes"]


def line(device="h100_sxm", start_s=5e-6, share=0.8, noise=0.0, shapes=60, each=4):
    """Rows of some shapes, each measured several times; the noise is one factor for all rows of a shape."""
    sizes = np.repeat(np.geomspace(1e4, 1e9, shapes), each)
    factor = np.repeat(np.exp(noise * np.random.default_rng(1).standard_normal(shapes)), each)
    sheet = datasheet(device)
    seconds = start_s + sizes / (sheet.memory_read_bytes_per_s * share)
    return Sample(sheet, {"size_bytes": sizes, "num_token": np.zeros(len(sizes))}, factor * seconds)


# ---- the bootstrap


def spread(data):
    """Standard deviation of the logarithm of the bootstrapped share, and all draws."""
    prior, own = fit_group(Line(), data)
    priors, devices = draws(Line(), data, prior, own, "line/only")
    assert len(priors) == DRAWS
    assert {len(found) for found in devices.values()} == {DRAWS}
    return np.std(np.log([found["share"] for found in devices["h100_sxm"]])), (priors, devices)


def test_without_noise_all_draws_are_the_optimum_and_with_noise_they_spread_by_shapes():
    exact, _ = spread([line()])
    noisy, _ = spread([line(noise=0.1)])
    assert exact < 1e-3
    # some 30 of the 60 shapes tell of the bandwidth, each with a factor of 10 %: 0.1 / sqrt(30) = 0.018
    assert 0.005 < noisy < 0.05


def test_rows_of_one_shape_are_drawn_together_so_that_repeating_them_makes_nothing_surer():
    once, _ = spread([line(noise=0.1, each=1)])
    often, _ = spread([line(noise=0.1, each=10)])
    assert often > 0.5 * once  # were rows drawn alone, it would be a third


def test_draws_depend_on_the_name_and_on_nothing_else():
    data = [line(noise=0.1), line("a100_sxm", share=0.7, noise=0.1)]
    prior, own = fit_group(Line(), data)
    first, again, other = (draws(Line(), data, prior, own, name) for name in ("a", "a", "b"))
    assert first == again
    assert first != other


def test_a_device_without_any_of_the_drawn_shapes_keeps_the_prior_of_the_draw():
    data = [line(noise=0.1), line("a100_sxm", shapes=1, each=1)]
    prior, own = fit_group(Line(), data)
    priors, devices = draws(Line(), data, prior, own, "line/only")
    assert any(found == shared for found, shared in zip(devices["a100_sxm"], priors, strict=True))


def test_a_fold_without_shapes_is_no_obstacle():
    few = line(shapes=2)
    assert len(set(folds(Line(), few).tolist())) < FOLDS
    assert not np.isnan(held_out(Line(), [few])["h100_sxm"]).any()


# ---- the model's own error


def test_the_error_is_split_into_shapes_and_rows_and_is_deaf_to_wild_ones():
    random = np.random.default_rng(0)
    sample = line(shapes=500, each=20)
    of_shape, of_row = 0.2 * random.standard_normal(500), 0.05 * random.standard_normal(len(sample))
    log = np.repeat(of_shape, 20) + of_row + 0.1
    log[::50] += 3.0
    found = model_error(Line(), sample, np.exp(log))
    assert found["bias"] == pytest.approx(0.1, abs=0.03)
    assert found["between"] == pytest.approx(0.2, rel=0.1)
    assert found["within"] == pytest.approx(0.05, rel=0.15)
    assert found["total"] > 0.4  # hears them


# ---- the plain roofline


def test_the_rival_is_right_where_the_world_is_a_roofline():
    rival, plain = Rival(Line()), line()
    rows = rival.sample(plain)
    assert rows.rows["memory_s"] == pytest.approx(plain.rows["size_bytes"] / plain.sheet.memory_read_bytes_per_s)
    assert errors(held_out(rival, [rows])["h100_sxm"])["mean"] < 0.01
    assert len(rival.parameters) == 7


def test_the_rival_knows_the_units_of_every_table():
    assert set(UNITS) == {kernel.table for kernel in kernels().values()}
    for kernel in kernels().values():
        assert set(UNITS[kernel.table]) <= set(kernel.columns)


# ---- files


@pytest.fixture(scope="module")
def made():
    return calibrate([QUICK])


def test_a_fitted_file_is_read_as_it_was_written_whatever_the_number_of_workers(made, tmp_path):
    write(made[0], tmp_path)
    paths = [tmp_path / f"{QUICK}.yaml", tmp_path / "evidence" / f"{QUICK}.yaml"]
    first = [path.read_bytes() for path in paths]
    write(calibrate([QUICK], workers=2)[0], tmp_path)
    assert [path.read_bytes() for path in paths] == first
    assert first == [(FITTED / path.relative_to(tmp_path)).read_bytes() for path in paths]  # as shipped
    assert read(tmp_path) == made


def test_the_errors_of_a_file_are_those_of_its_own_parameters(made):
    kernel = kernels()[QUICK]
    rows = {(row["group"], row["device"]): row for row in made[0]["errors"]}
    found = list(judged(made[0]))
    assert len(found) == len(rows) > 1
    for group, sample, ratio in found:
        row, stored = rows[group, sample.sheet.name], made[0]["groups"][group]
        assert {name: round(value, 4) for name, value in errors(ratio).items()} == row["shape"]
        other = named(kernel, stored["left_out"][sample.sheet.name])
        unseen = kernel.seconds(sample.rows, sample.sheet, other) / sample.measured_s
        assert {name: round(value, 4) for name, value in errors(unseen).items()} == row["left_out"]
        assert len(stored["held_out"][sample.sheet.name]) == FOLDS
        assert {len(values) for values in stored["draws"].values()} == {DRAWS}
        error = stored["model_error"][sample.sheet.name]
        assert 0 < error["shape"]["between"] < error["left_out"]["total"]


def test_draws_lie_about_the_parameters(made):
    kernel = kernels()[QUICK]
    for group in made[0]["groups"].values():
        for device, values in {"prior": group["prior"], **group["devices"]}.items():
            drawn = np.log([list(named(kernel, fit).values()) for fit in group["draws"][device]])
            distance = np.abs(np.median(drawn, axis=0) - np.log(list(values.values())))
            assert np.all(distance < 0.7)
            assert np.any(drawn.std(axis=0) > 1e-3)


def test_a_folder_or_file_that_is_not_of_this_version_is_refused(made, tmp_path):
    with pytest.raises(PlatformError, match="there is no fitted kernel model here"):
        read(tmp_path)
    write({**made[0], "data_sha256": "0" * 64}, tmp_path)
    with pytest.raises(PlatformError, match="fitted to other measurements"):
        list(judged(read(tmp_path)[0]))
    groups = {name: {**group, "prior": {"launch_s": 1.0}} for name, group in made[0]["groups"].items()}
    write({**made[0], "groups": groups}, tmp_path)
    with pytest.raises(PlatformError, match="the parameters of DeepEP are not of this model"):
        list(judged(read(tmp_path)[0]))
    old = [{key: row[key] for key in ("group", "device", "shape")} for row in made[0]["errors"]]
    write({**made[0], "errors": old}, tmp_path)
    with pytest.raises(PlatformError, match="field 'errors' has no 'rival' for DeepEP"):
        read(tmp_path)
    (tmp_path / f"{QUICK}.yaml").write_text("kernel: [")
    with pytest.raises(PlatformError, match="this is not YAML"):
        read(tmp_path)


def test_a_fit_on_fewer_rows_is_pulled_no_more_than_one_on_all():
    # a prior far away: the pull counts as with all rows, so that the two optima agree
    prior = {"start_s": 5e-6, "share": 0.4}
    sample = line(shapes=1000)
    few, many = (fit(Line(), [sample], prior, most=most)["share"] for most in (100, 4000))
    assert few == pytest.approx(many, rel=0.01)
