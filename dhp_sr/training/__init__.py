"""Training: phases, states and the run folder."""
