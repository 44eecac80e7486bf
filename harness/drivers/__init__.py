"""Drivers: what stands a plan up. One module or package a driver, found by name."""
