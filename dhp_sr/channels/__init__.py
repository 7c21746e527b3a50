"""Channels: which of them are coupled and must be pruned together, frozen in a `ChannelPlan`.

Start reading with `plan` (the result), then `build_plan.make_plan`, and `analysis` (operator by
operator).
"""
