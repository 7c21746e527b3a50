"""A network as a graph of operators with known shapes."""
