"""What a run tells: events, the screen, trackers, numbers of each step."""
