"""Budgets, and the widths that meet them."""
