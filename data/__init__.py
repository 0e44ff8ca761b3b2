"""Data sets and pipelines: numpy arrays out, no JAX inside.

Import what you need from its module: `data.synthetic`, `data.pipeline`, and so on. Every item is a
dictionary of numpy arrays; a model that predicts tokens gets `inputs`, `targets` and `weights`, where
weight 0 means that a target is not scored.
"""
