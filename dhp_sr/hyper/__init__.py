"""Latents and generated weights over a channel plan."""

from dhp_sr.hyper.convert import convert
from dhp_sr.hyper.hypernet import HyperNet
from dhp_sr.structure import ChannelPlan

__all__ = ["ChannelPlan", "HyperNet", "convert"]
