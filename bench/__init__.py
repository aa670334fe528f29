"""Figures: how fast, how many, how much memory."""
