"""Forms of networks that other runtimes execute faster, with equal results."""

import torch
from torch import Tensor, nn

from dhp_sr.archs import EDSR, RLFN, UNet
from dhp_sr.operators.constant_map import ConstantMap
from dhp_sr.utils.modules import deep_copy


def simplify(network: nn.Module) -> nn.Module:
    """Return a float32 copy on the CPU that other runtimes execute faster, with equal results.

    A PReLU with a single parameter becomes a leaky ReLU, which onnxruntime merges into the
    convolution before it (a PReLU stays a separate, slow operator; SRResNet takes twice as long
    with it). The ranges of EDSR and RLFN, and EDSR's output mean, go into weights and biases. A
    UNet, which pads and crops, states its output's size through the input's, so that programs that
    infer shapes find it.

    Args:
        network: Maps an image tensor to an image; left as it was.
    """
    copied = deep_copy(network).cpu().float().eval().requires_grad_(False)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            # Shared modules are replaced under each of their names.
            if isinstance(child, nn.PReLU) and child.num_parameters == 1:
                setattr(parent, name, nn.LeakyReLU(float(child.weight)))
    if type(copied) is EDSR:
        return _FoldedEDSR(copied).eval()
    if type(copied) is RLFN:
        return _FoldedRLFN(copied).eval()
    if type(copied) is UNet:
        return _SizedUNet(copied).eval()
    return copied


class _SizedUNet(nn.Module):
    """UNet whose result is given the size that it has."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Compute `UNet.forward`."""
        # -1 rather than the channels: the exporter drops a reshape that changes nothing.
        return self.network(x).reshape(x.shape[0], -1, *x.shape[2:])


class _FoldedEDSR(nn.Module):
    """EDSR whose range and output mean lie in the biases.

    Convolutions, ReLU, sums and shuffles are homogeneous: biases divided by the range do what an
    image multiplied by it does, and the features stay small, which fp16 needs. The input's mean
    stays a subtraction: zeros are padded after it, so in the first bias it would change the
    border.
    """

    def __init__(self, network: EDSR) -> None:
        super().__init__()
        self.network = network
        self.has_mean = bool(network.mean.any())
        with torch.no_grad():
            for layer in network.modules():
                # What is left of a removed convolution is its bias.
                if isinstance(layer, (nn.Conv2d, ConstantMap)) and layer.bias is not None:
                    layer.bias /= network.img_range
            output_bias = network.conv_last.bias
            assert output_bias is not None
            output_bias += network.mean.flatten()

    def forward(self, x: Tensor) -> Tensor:
        """Compute `EDSR.forward` without its scaling."""
        edsr = self.network
        features = edsr.conv_first(x - edsr.mean if self.has_mean else x)
        features = features + edsr.conv_after_body(edsr.body(features))
        return edsr.conv_last(edsr.upsample(features))


class _FoldedRLFN(nn.Module):
    """RLFN whose range lies in the first and the last convolution.

    Not in the biases as EDSR's: the attention's sigmoid is not homogeneous, so the features keep
    the range that they have.
    """

    def __init__(self, network: RLFN) -> None:
        super().__init__()
        self.network = network
        last = network.upsampler[0]
        with torch.no_grad():
            network.conv_1.weight *= network.img_range
            for parameter in last.parameters():
                parameter.div_(network.img_range)
        network.img_range = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Compute `RLFN.forward` without its scaling."""
        rlfn = self.network
        shallow = rlfn.conv_1(x)
        features = shallow
        for number in range(1, rlfn.num_block + 1):
            features = rlfn.get_submodule(f"block_{number}")(features)
        return rlfn.upsampler(rlfn.conv_2(features) + shallow)
