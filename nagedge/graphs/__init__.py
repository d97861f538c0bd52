"""The traced graphs: the model's forward pass, its inference graph and its whole training step."""
