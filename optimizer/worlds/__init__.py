"""Simulated worlds: language models with known truth, so that searches can be tested against what is."""
