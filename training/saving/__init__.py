"""Checkpoints that survive any instant, and runs that resume from them to the same bits."""
