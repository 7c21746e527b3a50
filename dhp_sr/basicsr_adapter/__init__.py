"""BasicSR's registries and the shim that makes it importable; the only package that imports basicsr."""
