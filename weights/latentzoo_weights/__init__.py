"""Checkpoints of latentzoo that its own wheel is too small for; `zoo.load(NAME)` finds them here."""
