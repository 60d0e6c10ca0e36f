"""The stages, one file and one hook each, named as in the hook and in the flags."""
