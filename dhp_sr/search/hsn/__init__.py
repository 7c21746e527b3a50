"""HSN: pruning by a network that generates the architecture (Gao et al., 2020).

Start reading at `search`, the method. `structure` has the network that generates a logit
per channel and the gates that turn logits into kept channels, `objective` what it is trained for.
"""
