"""The output: layout, files written past the page cache, journal, publication, and the files beside the shards."""
