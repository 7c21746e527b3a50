"""Groups of coupled channels and the plan of what can be pruned."""
