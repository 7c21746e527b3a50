"""Allocation: how many channels each group keeps, so that a budget is met.

Start with `budget.Budget` and `allocate.allocate_widths`. `candidates` has the widths that a group
may take, `width_solver` chooses among them, `diagnostics` says why a budget cannot be met.
"""
