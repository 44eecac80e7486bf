"""What runs inside an egress proxy's node: one engine a module, by the name that a lab file says under `engine`."""
