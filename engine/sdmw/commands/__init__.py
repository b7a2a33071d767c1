"""The commands: one function for each of the api's, which says what it takes and shows what comes back."""
