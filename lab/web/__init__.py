"""A page that shows a running lab and lets a teacher act on it."""
