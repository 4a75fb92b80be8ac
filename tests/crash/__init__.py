"""Tests that try to make the library lie: kills, failures, power cuts, damage, signals and random programs."""
