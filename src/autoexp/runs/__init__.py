"""What a run is: its nouns, its events, the reducer, the plan, and the journal that holds the truth."""
