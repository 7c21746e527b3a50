"""A copy of a network in the form that exporters and other runtimes take best; it computes the same."""

import copy

import torch
from torch import Tensor, nn

from dhp_sr.archs import EDSR, UNet


def prepare(network: nn.Module) -> nn.Module:
    """Return a float32 copy on the CPU, in eval mode, without what would cost time elsewhere.

    A PReLU with one parameter becomes a leaky ReLU, which onnxruntime merges into the convolution before it (a PReLU
    stays a separate, slow operator; SRResNet takes twice as long with it). EDSR's range and output mean go into its
    biases. A UNet, which fills sides up and cuts them back, states its output's size through the input's, so that
    programs that infer shapes find it.

    Args:
        network: takes one image tensor; left as it was.
    """
    copied = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.PReLU) and child.num_parameters == 1:
                setattr(parent, name, nn.LeakyReLU(float(child.weight)))
    wrapper = {EDSR: _FoldedEDSR, UNet: _SizedUNet}.get(type(copied))
    return wrapper(copied).eval() if wrapper else copied


class _SizedUNet(nn.Module):
    """UNet whose result is given the size that it has."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """As `UNet.forward`; with its channels stated, the exporter would see that nothing changes, and drop it."""
        return self.network(x).reshape(x.shape[0], -1, *x.shape[2:])


class _FoldedEDSR(nn.Module):
    """EDSR whose range and output mean lie in the biases.

    Convolutions, ReLU, sums and shuffles pass a common factor on, so biases divided by the range do what an image
    multiplied by it does, and the features stay small, which fp16 needs. The input's mean stays a subtraction: zeros
    are padded after it, so in the first bias it would change the border.
    """

    def __init__(self, network: EDSR) -> None:
        super().__init__()
        self.network = network
        self.has_mean = bool(network.mean.any())
        with torch.no_grad():
            for layer in network.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.bias /= network.img_range
            network.conv_last.bias += network.mean.flatten()

    def forward(self, x: Tensor) -> Tensor:
        """As `EDSR.forward`, without scaling."""
        plain = self.network
        features = plain.conv_first(x - plain.mean if self.has_mean else x)
        features = features + plain.conv_after_body(plain.body(features))
        return plain.conv_last(plain.upsample(features))
