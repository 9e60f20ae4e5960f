"""Flax NNX reference models."""
