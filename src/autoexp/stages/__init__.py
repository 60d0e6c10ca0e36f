"""The stages, one file and one hook each: setup, baseline, then propose, apply, commit, train, triage, record, decide."""
