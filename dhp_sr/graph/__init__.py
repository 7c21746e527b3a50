"""Graph capture: a network becomes a torch.fx graph whose every value has a known shape.

Start reading with `capture.trace`; `tracer` follows the forward, `shape_inference` runs it without
arithmetic.
"""
