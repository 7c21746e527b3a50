"""Training: one run from options to results.

Start reading at `driver.train`, the loop that the command `train.py` calls. It drives a
`trainer.Trainer`, which takes a network through the `phases` in the order of the `schedule`:
dense training, search, and finetuning of each pruned model. `pruning` holds the steps between
the phases, `checkpoint` the states that a resumed run continues from.
"""
