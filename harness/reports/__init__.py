"""Reports: one module a form of output."""
