"""Decision rules side by side: simulated nights, and real trainings."""
