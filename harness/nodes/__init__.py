"""Node kinds: one module a kind, found by the word that stands under `kind` in a lab file."""
