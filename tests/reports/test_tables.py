"""reports/tables.py and widths.py: the texts, letter by letter."""

from dhp_sr.reports import latency_table, markdown_table, step_table, text_table, widths_text

TEXT = """\
model    iterations  Set5 PSNR-Y dB  SSIM-Y  Set14 PSNR-Y dB  SSIM-Y          MACs G       params M  latency ms
-------  ----------  --------------  ------  ---------------  ------  --------------  -------------  ----------
bicubic           -           28.43  0.8812            25.99  0.8812               -              -           -
dense        10,000           31.98  0.8812                -       -          90.352          3.697       512.3
pruned       50,000           31.85  0.8812            28.33  0.8812  36.141 (40.0%)  1.663 (45.0%)       221.7
"""

WIDTHS = """\
Channel groups: 2, 51 of 67 channels kept

  group       before  after  kept
  input            3      3  100%  ########################  not pruned: input of the network
  conv_first      64     48   75%  ##################......

Layers: 2, channels as in -> out

  layer       kind     before    after  weights kept
  conv_first  Conv2d  3 -> 64  3 -> 48           75%
  conv_last   Conv2d  64 -> 3  48 -> 3           75%
"""


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
    assert header.split() == ["model", "iterations", "MACs", "G", "params", "M", "latency", "ms"]
    assert row.split() == ["dense", "10,000", "90.352", "3.697", "512.3"]


def test_widths(widths):
    assert widths_text(widths) == WIDTHS


def step_row(**changes):
    spread = {"median": 1.0101, "low": 1.002, "high": 1.03}
    return {
        "network": "EDSR",
        "parametrization": "factored",
        "device": "cpu",
        "threads": 1,
        "input": [16, 3, 48, 48],
        "paper_batch": 16,
        "wall_ratio": {"median": 2.0, "low": 2.0, "high": 2.0},
        "cpu_ratio": spread,
        "plain": {"params": 1000, "state_bytes": 2**20, "saved_bytes": 3 * 2**20},
        "hyper": {"params": 1001, "state_bytes": 2**21, "saved_bytes": 3 * 2**20},
        **changes,
    }


def test_steps():
    rows = [step_row(), step_row(parametrization="full", threads=2, input=[4, 3, 48, 48])]
    assert step_table(rows) == (
        "| network |  weights |   batch |      time of a step | params |  state MiB | state | with activations |\n"
        "| ------- | -------: | ------: | ------------------: | -----: | ---------: | ----: | ---------------: |\n"
        "| EDSR    | factored |      16 | 1.010 (1.002-1.030) |  1.001 | 1.0 -> 2.0 | 2.000 |            1.250 |\n"
        "| EDSR    |     full | 4 of 16 | 2.000 (2.000-2.000) |  1.001 | 1.0 -> 2.0 | 2.000 |            1.250 |\n"
    )


def speed_row(widths, macs_ratio, ms, runtime="onnxruntime", threads=1):
    one = {"network": "EDSR", "widths": widths, "input": [1, 3, 64, 64], "macs_ratio": macs_ratio}
    wall, cpu = ({"median": value} for value in (2 * ms, ms))
    faster = {"speedup": {"median": 50 / ms}, "cpu_speedup": {"median": 100 / ms}}
    return {**one, **faster, "runtime": runtime, "threads": threads, "wall_ms": wall, "cpu_ms": cpu}


def test_speed_of_cut_networks():
    rows = [
        speed_row("dense", 1.0, 100),
        speed_row("uniform", 0.498, 50),
        speed_row("uniform", 0.498, 40, threads=2),
    ]
    assert latency_table(rows) == (
        "| network |  widths |   input | MACs kept | onnxruntime, 1 thread | onnxruntime, 2 threads |\n"
        "| ------- | ------: | ------: | --------: | --------------------: | ---------------------: |\n"
        "| EDSR    |   dense | 3x64x64 |    100.0% |                100 ms |                      - |\n"
        "| EDSR    | uniform | 3x64x64 |     49.8% |                 2.00x |                  1.25x |\n"
    )
