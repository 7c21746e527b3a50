"""Tables of finished models, from a result written by hand."""

from dhp_sr.reports.tables import evaluation_text

SCORES = {"psnr_y_db": 30.0, "ssim_y": 0.9, "psnr_rgb_db": 28.5, "ssim_rgb": 0.88}
COST = {
    "input": [1, 3, 256, 256],
    "macs": 11_480_000_000,
    "params": 124_600,
    "activations": 61_866_000,
    "convs": 21,
}


def evaluation(task="sr", **more):
    inputs = {
        "model": "bicubic",
        "sets": {"A": {**SCORES, "images": 1}},
        "images": {"A": [{"image": "x", **SCORES}]},
    }
    pruned_scores = {**SCORES, "psnr_y_db": 31.25}
    costs = {"128x128": {**COST, "input": [1, 3, 128, 128], "macs": 2_870_000_000}, "256x256": COST}
    model = {
        "model": "pruned",
        "sets": {"A": {**pruned_scores, "images": 1}},
        "images": {"A": [{"image": "x", **pruned_scores}]},
        "runtime": "torch",
        "costs": costs,
        "macs": 2_870_000_000,
        "params": 124_600,
        "latency_ms": None,
        **more,
    }
    return {"name": "pruned.safetensors", "task": task, "shaved": {"A": 4}, "rows": [inputs, model]}


MEASURED = {
    "latency_ms": 12.5,
    "latency": {
        "cpu": {
            "median_ms": 12.5,
            "low_ms": 12.0,
            "high_ms": 13.0,
            "threads": 1,
            "device": "cpu",
            "input": [1, 3, 8, 9],
        }
    },
    "memory": {
        "process_mib": 350.2,
        "pass_mib": 29.4,
        "cuda_peak_mib": None,
        "input": [1, 3, 8, 9],
    },
}


def test_everything(golden):
    golden("evaluation.txt", evaluation_text(evaluation(**MEASURED)))


def test_what_was_not_measured_is_left_out():
    text = evaluation_text(evaluation(), images=False)
    assert "Time" not in text.split("NTIRE")[0] and "memory" not in text
    assert "\nx " not in text and "mean" in text
    ntire = text.splitlines()[-1].split()
    assert ntire == ["pruned", "28.50", "-", "0.125", "11.48", "61.87", "-", "21"]


def test_the_challenge_is_about_super_resolution():
    assert "NTIRE" not in evaluation_text(evaluation(task="denoise"))


def test_unknown_costs_are_dashes():
    unknown = {**COST, "macs": None, "params": None, "activations": None, "convs": None}
    text = evaluation_text(evaluation(costs={"256x256": unknown}))
    assert "- / -" in text
