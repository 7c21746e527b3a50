"""Descriptions of networks of other packages, as a program that uses the library writes them."""

from dhp_sr.deploy import ModelInfo, SizeRequirements


def third_party_info(architecture, arguments, *, size_multiple=1, smallest_side=16, **facts):
    """Return the description of a network whose files name a registered constructor."""
    classifies = facts.get("task") == "classification"
    return ModelInfo(
        architecture,
        arguments,
        sizes=SizeRequirements(size_multiple, smallest_side),
        input_size=smallest_side if classifies else None,
        **facts,
    )
