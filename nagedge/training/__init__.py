"""Training: the run file, Nesterov SGD, the loop, and checkpoints that a kill cannot break."""
