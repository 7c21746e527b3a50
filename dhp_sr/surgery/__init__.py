"""Surgery: smaller copies of a network, and the correction of what the cut took away.

Start reading with `cut` (kept slices copied into smaller layers); `rewrite` replaces numbers of
channels in a forward, `remove` takes out residual branches and whole blocks. `correct` re-solves
layers by least squares: `side_by_side` runs the dense and the masked network, `layer_samples` and
`layer_regression` make regressions of layers, and `least_squares` solves them.
"""
