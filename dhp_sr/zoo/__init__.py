"""Networks by name or from a file.

Start with `names`: our architectures, BasicSR's and torchvision's by name, and the table of
packages that a further source is added to. `from_file` loads model files and other projects'
weights, `third_party` finds out what a network of another package takes and gives. `networks`
holds the example inputs that costs are stated for, and `model_zoo` the trained models that come
with the program (`zoo:NAME`).
"""
