"""Results as text, letter by letter, and in markdown."""

from dhp_sr.reports.tables import markdown_table, text_table

TEXT = """\
model    iterations  Set5 PSNR-Y dB  SSIM-Y  Set14 PSNR-Y dB  SSIM-Y          MACs G   parameters M  latency ms
-------  ----------  --------------  ------  ---------------  ------  --------------  -------------  ----------
bicubic           -           28.43  0.8812            25.99  0.8812               -              -           -
dense        10,000           31.98  0.8812                -       -          90.352          3.697       512.3
pruned       50,000           31.85  0.8812            28.33  0.8812  36.141 (40.0%)  1.663 (45.0%)       221.7
"""  # noqa: E501 - as wide as it is printed


def test_text(metrics):
    assert text_table(metrics) == TEXT


def test_markdown_holds_the_same_cells(metrics):
    lines = markdown_table(metrics).splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(set(cell) <= set("-:") for cell in cells[1])
    text = [line.split() for line in TEXT.splitlines()]
    assert " ".join(cells[0]).split() == text[0]
    assert [" ".join(row).split() for row in cells[2:]] == text[2:]


def test_a_bar_in_a_name_does_not_break_markdown(metrics):
    metrics["rows"][2]["model"] = "a|b"
    assert r"| a\|b " in markdown_table(metrics)


def test_denoising_is_scored_on_all_channels(metrics):
    metrics["task"] = "denoise"
    assert "Set5 PSNR dB" in text_table(metrics) and "30.48" in text_table(metrics)


def test_a_run_without_test_sets(metrics):
    metrics["rows"] = [{**metrics["rows"][1], "sets": {}}]
    header, _, row = text_table(metrics).splitlines()
    costs = ["MACs", "G", "parameters", "M", "latency", "ms"]
    assert header.split() == ["model", "iterations", *costs]
    assert row.split() == ["dense", "10,000", "90.352", "3.697", "512.3"]


def test_an_unknown_cost_and_an_unpruned_one(metrics):
    metrics["rows"][2].update(macs=None, params=metrics["rows"][1]["params"])
    row = text_table(metrics).splitlines()[-1].split()
    assert row[-3:] == ["-", "3.697", "221.7"]


def test_every_kind_of_cost_in_the_rows_has_a_column(metrics):
    for row, activations in zip(metrics["rows"], (None, 62e6, 31e6), strict=True):
        row["activations"] = activations
    lines = text_table(metrics).splitlines()
    assert "activations M" in lines[0] and "31.000 (50.0%)" in lines[-1]
