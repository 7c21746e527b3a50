"""Operators: what each does to channels and to the receptive field."""
