"""Lessons with labs: a learner reads, tries, and is graded by what the running lab then is."""
