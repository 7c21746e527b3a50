"""Training: phases, states, validation and the run folder, driven through BasicSR's registry."""
