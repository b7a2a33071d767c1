"""From recipe, headers and budget to a plan: frozen data that says all that will happen."""
