"""Senao SX904: its switch takes tc filters."""
