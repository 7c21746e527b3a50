"""Tasks: data, loss and scores of restoration and classification."""
