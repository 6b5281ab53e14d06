"""Training: one readable loop over a TrainState."""
