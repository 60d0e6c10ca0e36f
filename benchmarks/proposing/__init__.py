"""Proposers side by side: nights of real trainings, each by one of them."""
