"""Pretraining by masked token modelling: recipe, objective, batches, and the run."""
