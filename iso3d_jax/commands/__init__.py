"""What the commands share: flags, config files and their rules, paths, hints."""
