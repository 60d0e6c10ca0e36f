"""The parts of benchmarks/trainer.py: two sides, trained on the same text, in one table."""
