"""Pages that people look at: a merge, a store, a comparison as one HTML file."""
