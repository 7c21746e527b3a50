"""Folder of a small finished run."""

import json

import pytest

CURVES = """iteration,phase,loss,lr,macs_ratio,params_ratio
10,dense,0.5,1e-4,,
20,dense,0.3,1e-4,1.0,1.0
30,search,0.2,1e-4,0.7,0.8
40,finetune,0.01,5e-05,0.4,0.45
"""

VALIDATION = """iteration,phase,set,psnr_y_db,ssim_y,psnr_rgb_db,ssim_rgb
20,dense,Set5,30.1,0.85,28.9,0.84
40,finetune,Set5,30.0,0.84,28.8,0.83
40,finetune,Set14,27.0,0.74,,
"""


def scores(psnr_y_db):
    return {
        "psnr_y_db": psnr_y_db,
        "ssim_y": 0.88125,
        "psnr_rgb_db": psnr_y_db - 1.5,
        "ssim_rgb": 0.87,
        "images": 5,
    }


@pytest.fixture
def metrics():
    bicubic = {
        "model": "bicubic",
        "iterations": None,
        "macs": None,
        "params": None,
        "latency_ms": None,
        "sets": {"Set5": scores(28.429), "Set14": scores(25.994)},
    }
    dense = {
        "model": "dense",
        "iterations": 10000,
        "macs": 90352000000,
        "params": 3696643,
        "latency_ms": 512.34,
        "sets": {"Set5": scores(31.98)},
    }
    pruned = {
        "model": "pruned",
        "iterations": 50000,
        "macs": 36140800000,
        "params": 1663000,
        "latency_ms": 221.7,
        "sets": {"Set5": scores(31.85), "Set14": scores(28.33)},
    }
    return {"name": "edsr_x4", "task": "sr", "scale": 4, "rows": [bicubic, dense, pruned]}


@pytest.fixture
def widths():
    groups = [
        {
            "name": "input",
            "before": 3,
            "after": 3,
            "prunable": False,
            "reason": "input of the network",
        },
        {"name": "conv_first", "before": 64, "after": 48, "prunable": True, "reason": ""},
    ]
    layers = [
        {"name": "conv_first", "kind": "Conv2d", "before": [64, 3], "after": [48, 3]},
        {"name": "conv_last", "kind": "Conv2d", "before": [3, 64], "after": [3, 48]},
    ]
    return {"groups": groups, "layers": layers}


@pytest.fixture
def folder(tmp_path, metrics, widths):
    run = tmp_path / "edsr_x4"
    run.mkdir()
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "widths.json").write_text(json.dumps(widths))
    (run / "curves.csv").write_text(CURVES)
    (run / "validation.csv").write_text(VALIDATION)
    return run
