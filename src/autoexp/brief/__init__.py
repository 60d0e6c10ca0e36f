"""What an agent is sent: gathered from the run, counted, and cut by a rule until it fits."""
