"""What went wrong in a run: spikes, their capsules, a step run again and examined."""
