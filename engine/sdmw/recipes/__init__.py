"""What is wanted: the recipe, its language and how it is read."""
