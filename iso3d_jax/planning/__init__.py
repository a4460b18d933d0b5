"""What programs will be on machines that are not here."""
