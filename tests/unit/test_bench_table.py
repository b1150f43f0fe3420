"""The statistics and tables of the benchmarks: a figure that is computed wrongly is worse than none."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are run from the checkout, and never installed

from benchmarks import stats, table  # noqa: E402 - after the path
from benchmarks.figures import FORMAT, Figure, Run, Sense, failed, figure, judge  # noqa: E402

VALUES = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50)


def a_run(*figures: Figure) -> Run:
    """Give a run with these figures."""
    versions = {"unstale": "1.0", "cachebox": "6.2"}
    return Run(
        format=FORMAT, date="2025-01-31", python="3.11.7", system="Linux x86_64", cpus=2, quick=False,
        versions=versions, figures=list(figures),
    )  # fmt: skip


@given(VALUES, st.floats(0, 1))
def test_a_quantile_lies_among_its_values(values: list[float], share: float) -> None:
    """A quantile lies between the least and the greatest value, and those are the quantiles 0 and 1."""
    assert min(values) - 1e-6 <= stats.quantile(values, share) <= max(values) + 1e-6
    assert (stats.quantile(values, 0), stats.quantile(values, 1)) == (min(values), max(values))


def test_a_median_stands_in_the_middle() -> None:
    """The median of an odd number of values is one of them, of an even number it lies between two."""
    assert stats.median([5.0, 1.0, 3.0]) == 3.0
    assert stats.median([4.0, 1.0, 3.0, 2.0]) == 2.5


def test_no_values_have_no_quantile() -> None:
    """Nothing measured is an error, and no zero."""
    with pytest.raises(ValueError, match="no values"):
        stats.quantile([], 0.5)


def test_ratios_are_those_of_a_round() -> None:
    """A round that was slow for both counts as much as any other."""
    assert stats.ratios([1.0, 10.0, 2.0], [2.0, 20.0, 4.0]) == [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match="zip"):
        stats.ratios([1.0], [1.0, 2.0])


def test_a_slope_is_what_one_more_costs() -> None:
    """What all points have in common does not count; points of one x have no slope."""
    assert stats.slope([(100.0, 57.0), (20_000.0, 57.0 + 19_900 * 0.5)]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no slope"):
        stats.slope([(1.0, 1.0), (1.0, 2.0)])


def test_growth_is_what_the_second_half_adds() -> None:
    """A curve that levels off has not grown, however steep it began; one that falls has not either."""
    assert stats.growth([10.0, 50.0, 100.0, 100.0, 100.0, 90.0]) == 0
    assert stats.growth([100.0, 110.0, 120.0, 130.0, 140.0, 150.0]) == pytest.approx((150 - 130) / 130)


def test_cases_are_measured_in_every_round() -> None:
    """Each case runs once a round, in an order that changes, and is given by its time for one doing."""
    order: list[str] = []

    def case(name: str, seconds: float) -> stats.Case:
        def run(times: int) -> float:
            order.append(name)
            return times * seconds

        return run

    times = stats.interleave({"a": case("a", 1e-3), "b": case("b", 4e-3)}, rounds=20, sample_s=0.1)
    assert times["a"] == pytest.approx([1e-3] * 20)
    assert times["b"] == pytest.approx([4e-3] * 20)
    rounds = ["".join(order[-40:][start : start + 2]) for start in range(0, 40, 2)]
    assert set(rounds) == {"ab", "ba"}


@pytest.mark.parametrize(
    ("measured", "sense", "target", "verdict"),
    [
        (1.0, "<=", 1.0, "met"),
        (1.01, "<=", 1.0, "missed"),
        (1.0, "<", 1.0, "missed"),
        (2.0, ">=", 1.0, "met"),
        (0.5, ">=", 1.0, "missed"),
        (1.0, "=", 1.0, "met"),
        (2.0, "=", 1.0, "missed"),
        (float("nan"), "<=", 1.0, "missed"),
    ],
)
def test_a_target_is_met_or_missed(measured: float, sense: Sense, target: float, verdict: str) -> None:
    """What is no number meets nothing."""
    assert judge(measured, sense, target) == verdict


def test_a_figure_is_the_median_of_its_rounds() -> None:
    """One round that went wrong changes neither the figure nor its verdict."""
    made = figure("hits", "a hit", [1.0] * 30 + [50.0], "us", target=2.0)
    assert (made.measured, made.low, made.high, made.verdict) == (1.0, 1.0, 1.0, "met")
    assert figure("hits", "a hit", [1.0], "us").verdict == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.0123, "0.012"),
        (0.5849, "0.58"),
        (12.34, "12.3"),
        (123.4, "123"),
        (649_951.1, "649,951"),
        (200_000.0, "200,000"),
        (1e300, "1" + "0" * 300),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    """No more digits are written than can be trusted."""
    written = table.number(value)
    assert written.replace(",", "")[:3] == text.replace(",", "")[:3]
    assert value > 1e15 or written == text


def test_the_plain_table_is_aligned() -> None:
    """Every row has its bars under those of the header, and notes stand under their figures."""
    met = figure("hits", "a hit", [0.5, 0.6, 0.7], "x", target=0.6, note="peer: 400 ns")
    lines = table.plain([met, figure("hits", "a hit by another name", [3.0], "x"), failed("memory", "it broke")]).split(
        "\n"
    )
    bars = [i for i, char in enumerate(lines[0]) if char == "|"]
    rows = [line for line in lines if not line.startswith("    ")]
    assert all(line[i] == "|" for line in rows for i in bars[: line.count("|")])
    assert lines[2].split("|")[1].strip() == "<= 0.60 x"
    assert lines[3] == "    peer: 400 ns"
    assert lines[-2].endswith("failed")
    assert lines[-1] == "    it broke"


def test_the_page_gets_one_table_a_group() -> None:
    """Groups stand in their order with all their figures; what the run was made with stands above them."""
    first = figure("hits", "a | b", [0.5], "x", target=0.6)
    second = figure("memory", "a mark", [140.0], "bytes", target=100.0, note="many")
    text = table.markdown(a_run(first, second, figure("hits", "c", [1.0], "ns")))
    assert text.startswith(
        "A full run on 2025-01-31: Python 3.11.7, Linux x86_64, 2 processors; unstale 1.0, cachebox 6.2."
    )
    assert [line for line in text.splitlines() if line.startswith("#")] == ["### Hits, next to peers", "### Memory"]
    assert "| a \\| b | <= 0.60 x | 0.50 x |  | **met** |  |" in text
    assert "| a mark | <= 100 bytes | 140 bytes |  | **missed** | many |" in text


def test_the_table_replaces_what_stood_between_its_marks(tmp_path: Path) -> None:
    """The rest of the page stays as it is, and doing it again changes nothing."""
    page, results = tmp_path / "page.md", tmp_path / "run.json"
    page.write_text(f"# Page\n\n{table.BEGIN}\nold\n{table.END}\n\nrest\n", encoding="utf-8")
    results.write_bytes(msgspec.json.encode(a_run(figure("hits", "a hit", [0.5], "x"))))
    for _ in range(2):
        assert table.main(["--json", str(results), "--page", str(page)]) == 0
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# Page\n\n{table.BEGIN}\n\nA full run")
        assert text.endswith(f"\n\n{table.END}\n\nrest\n")
        assert text.count("a hit") == 1
        assert "old" not in text


@pytest.mark.parametrize("page", ["", "END BEGIN", "BEGIN", "BEGIN BEGIN END"])
def test_a_page_without_its_marks_is_refused(page: str) -> None:
    """A page is never overwritten where nobody asked for it."""
    with pytest.raises(ValueError, match="needs one"):
        table.between(page.replace("BEGIN", table.BEGIN).replace("END", table.END), table.BEGIN, table.END, "text")


def test_the_documentation_has_its_marks() -> None:
    """The page for which the tables are made can take them."""
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.between(page, table.BEGIN, table.END, "x") != page
    assert table.between(page, "<!-- replays:begin -->", "<!-- replays:end -->", "x") != page
