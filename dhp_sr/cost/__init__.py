"""Multiply-adds, parameters and latency of a pruned network."""
