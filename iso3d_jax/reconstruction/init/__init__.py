"""What a reconstruction may begin from: drafts and visual hulls."""
