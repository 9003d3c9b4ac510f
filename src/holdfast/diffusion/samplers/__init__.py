"""Samplers: how a process is simulated backwards."""
