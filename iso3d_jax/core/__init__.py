"""What everything stands on: errors, files, progress, and how a run ends."""
