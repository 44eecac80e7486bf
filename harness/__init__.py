"""Egress Lab: stand up the path that traffic takes out of a Kubernetes cluster, and prove every flow."""

__version__ = "0.1.0"
