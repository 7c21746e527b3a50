"""The table of the methods side by side."""

from dhp_sr.reports import controls_table


def _row(method, seed, psnr, step, length=1.0):
    own = {
        "case": "edsr_50",
        "method": method,
        "seed": seed,
        "length": length,
        "step_ratio": step,
        "macs_ratio": 0.5,
    }
    return own | {"psnr_y_db": {"Set5": psnr - 1, "Set14": psnr + 1}, "mean_psnr_y_db": psnr}


def test_the_best_method_comes_first_and_seeds_are_gathered():
    rows = [_row("uniform", 0, 26.0, 0.7), _row("dhp", 2, 27.2, 0.6), _row("dhp", 0, 27.0, 0.5)]
    first, second = (line.split("|")[1:-1] for line in controls_table(rows).splitlines()[2:])
    assert [cell.strip() for cell in first] == [
        "edsr_50", "dhp", "0, 2", "50.0%", "0.55", "Set5 26.10, Set14 28.10", "27.100", "0.141"
    ]  # fmt: skip
    assert [cell.strip() for cell in second][1:] == [
        "uniform", "0", "50.0%", "0.70", "Set5 25.00, Set14 27.00", "26.000", "-"
    ]  # fmt: skip


def test_a_length_of_its_own_is_a_case_of_its_own():
    table = controls_table([_row("dhp", 0, 27.0, 0.5), _row("dhp", 0, 25.0, 0.5, length=0.5)])
    assert "| edsr_50 " in table and "| edsr_50, 0.5 x the time " in table
