"""Published CIFAR-10 checkpoints on the complete test set, from the sheets to the error."""

import pytest
import torch

from dhp_sr.archs import build
from dhp_sr.config.datasets import ClassificationVal
from dhp_sr.data.classification import build_val
from dhp_sr.deploy import load_into, load_weights
from dhp_sr.metrics import num_correct

FILES = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("depth, wrong", [(20, 827), (56, 661)])
def test_published_error(depth, wrong, shared_data, shared_weights):
    section = {
        "type": "ClassificationDataset",
        "dataroot": str(shared_data / "CIFAR10"),
        "batch_size": 100,
    }
    items = build_val(ClassificationVal(**section))
    network = build("ResNet", depth=depth).eval()
    load_into(network, load_weights(shared_weights / FILES[depth]))
    with torch.inference_mode():
        right = sum(
            num_correct(network(batch["image"]), batch["label"]) for batch in items.batches()
        )
    assert (len(items), len(items) - right) == (10_000, wrong)
