"""HSN: pruning by a network that generates the architecture (Gao et al., 2020).

Start reading at `search`, the method. `structure_network` generates a logit per channel, `gates`
turns logits into kept channels, `cost_regularizer` and `layer_scaling` make up the objective.
"""
