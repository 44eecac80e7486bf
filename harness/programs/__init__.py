"""Programs that run inside nodes; they import the standard library, cryptography and each other only."""
