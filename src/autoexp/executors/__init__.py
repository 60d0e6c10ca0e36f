"""Where trainings run. The local one starts a keeper for each, which goes on whatever happens to the session."""
