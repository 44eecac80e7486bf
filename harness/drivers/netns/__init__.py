"""The namespace driver: one sandbox of Linux namespaces per lab, on real parts."""
