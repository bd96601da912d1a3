"""Weight formats: readers and writers of named arrays."""
