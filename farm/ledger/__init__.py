"""The directory of results of a study: the only truth about what is done (docs/structure.md draws it)."""
