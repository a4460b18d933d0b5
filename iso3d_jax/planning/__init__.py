"""What a run will need and cost: programs, memory and time on machines that are not here."""
