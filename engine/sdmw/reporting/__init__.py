"""What a person reads: the report, the files that go with a checkpoint, the terminal."""
