"""BasicSR: the only package that imports it.

`shim` is low: it makes `import basicsr` work and builds BasicSR's networks. `registries` and
`model` are high: they let BasicSR build and drive our networks, datasets and training.
"""
