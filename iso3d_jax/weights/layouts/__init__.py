"""One file a family of weight layouts, each with one table of rules a module."""
