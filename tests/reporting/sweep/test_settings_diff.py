"""Which settings differ between cells, and how a variant is called."""

from pathlib import Path

from sft_app.reporting.sweep.cells import collect_sweep, flatten
from sft_app.reporting.sweep.seed_groups import group_seeds, spread, variant_of
from sft_app.reporting.sweep.settings_diff import differences
from tests.reporting.example_runs import config_of, write_cell, write_run, write_sweep


def test_a_configuration_is_flattened_to_dotted_keys() -> None:
    config = {"a": {"b": {"c": 1}, "empty": {}}, "list": [1, {"x": 2}], "none": None}
    assert flatten(config) == {"a.b.c": 1, "a.empty": {}, "list": [1, {"x": 2}], "none": None}


def test_only_what_differs_is_listed_and_what_follows_the_length_stands_with_it(
    tmp_path: Path,
) -> None:
    cells = collect_sweep(write_sweep(tmp_path, lengths=(8192, 16384), seeds=(1, 2)))
    found = differences(cells)
    assert [difference.key for difference in found] == ["context_length", "rope.method", "seed"]
    assert found[0].values == ["8192", "16384"]
    assert found[0].followers == ["tokenizer.model_max_length"]


def test_values_are_in_the_order_of_their_size(tmp_path: Path) -> None:
    for rate in (1e-4, 2e-5, 1e-5):
        write_cell(tmp_path / f"{rate}", learning_rate=rate)
    (difference,) = differences(collect_sweep(tmp_path))
    assert difference.key == "trainer.learning_rate"
    assert difference.values == ["1e-05", "2e-05", "0.0001"]


def test_a_key_that_some_configurations_lack_differs(tmp_path: Path) -> None:
    write_cell(tmp_path / "with", optim="adafactor")
    write_cell(tmp_path / "without")
    (difference,) = differences(collect_sweep(tmp_path))
    assert (difference.key, difference.values) == ("trainer.optim", ["adafactor", "—"])


def test_a_job_that_has_not_written_its_configuration_makes_no_differences(tmp_path: Path) -> None:
    write_cell(tmp_path / "a", length=8192)
    write_run(tmp_path / "b", overrides=["context_length=16384"])
    assert [d.key for d in differences(collect_sweep(tmp_path))] == ["context_length"]


def test_a_variant_is_called_by_what_differs_apart_from_length_and_seed(tmp_path: Path) -> None:
    for method in ("linear", "yarn"):
        for rate in (1e-5, 2e-5):
            for seed in (1, 2):
                name = f"{method}{rate}{seed}"
                write_cell(tmp_path / name, method=method, seed=seed, learning_rate=rate)
    cells = collect_sweep(tmp_path)
    groups = group_seeds(cells, differences(cells))
    assert sorted(group.variant for group in groups) == [
        "linear, learning_rate 1e-05", "linear, learning_rate 2e-05",
        "yarn, learning_rate 1e-05", "yarn, learning_rate 2e-05",
    ]  # fmt: skip
    assert all(len(group.cells) == 2 for group in groups)


def test_without_differences_a_variant_is_called_by_its_method(tmp_path: Path) -> None:
    cells = collect_sweep(write_sweep(tmp_path, methods=("yarn",)))
    assert {variant_of(cell, differences(cells)) for cell in cells} == {"yarn"}


def test_a_key_without_order_or_text_does_no_harm(tmp_path: Path) -> None:
    for index, value in enumerate(({"x": [1]}, [None, True], "text", 3)):
        write_run(tmp_path / str(index), config={**config_of(), "odd": value})
    assert {d.key for d in differences(collect_sweep(tmp_path))} == {"odd", "odd.x"}


def test_spread_is_the_sample_standard_deviation_and_nan_is_not_averaged_away() -> None:
    several = spread([1.0, 2.0, None, 3.0])
    assert several is not None
    assert (several.mean, several.deviation, several.count) == (2.0, 1.0, 3)
    single = spread([2.0])
    assert single is not None
    assert single.deviation is None
    diverged = spread([1.0, float("nan")])
    assert diverged is not None
    assert diverged.mean != diverged.mean
    assert spread([None]) is None


def test_numbers_that_look_alike_in_six_digits_are_two_settings(tmp_path: Path) -> None:
    """They had one text, 1e+06, and so were one setting, run twice with the same seed."""
    for rate in (1000000.0, 1000001.0):
        write_cell(tmp_path / str(rate), learning_rate=rate)
    (difference,) = differences(collect_sweep(tmp_path))
    assert difference.values == ["1e+06", "1000001.0"]
