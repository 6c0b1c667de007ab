"""Debugging a run: spikes, their capsules, a step run again and examined."""
