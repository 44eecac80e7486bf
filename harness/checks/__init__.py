"""Checks: one assertion each, found by the word that stands under `expect` in a scenario file."""
