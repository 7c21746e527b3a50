"""Networks whose weights are generated from latent vectors over a channel plan.

Start reading at `convert`, which makes a `HyperNet` of a plain network. `masked_network` is its
base class, with masks, costs and budgets; `parametrization` says how weights follow from latents,
`gated` is the variant for HSN.
"""

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.hyper.convert import convert
from dhp_sr.hyper.hypernet import HyperNet

__all__ = ["ChannelPlan", "HyperNet", "convert"]
