"""Latents and generated weights over a channel plan."""

from dhp_sr.channels.plan import ChannelPlan
from dhp_sr.hyper.convert import convert
from dhp_sr.hyper.hypernet import HyperNet

__all__ = ["ChannelPlan", "HyperNet", "convert"]
